"""compare: two registered versions on the same test clips, with paired differences (evaluate --compare A B).

Each version is evaluated first, if it was not. The comparison reads the predictions that the evaluations stored, so the
test split is scored once per version. Differences leave out the same speaker of both models at
a time: they are far narrower than the difference of two intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType

from emoray.errors import InputError
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.intervals import interval, paired_difference
from emoray.evaluation.metrics import Metric, labelled_dimensions
from emoray.evaluation.pages import SYNTHETIC_NOTE
from emoray.evaluation.summary import headline_metrics, level_title, semantic_levels
from emoray.lake.tables import Lake
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.evaluate import stored, tables
from emoray_jobs.evaluate.stored import EvaluateResult, SplitReport
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: In place of one level: each model with all of its inputs.
FULLEST = "all inputs of each"


@dataclass(frozen=True)
class SplitComparison:
    """The comparison on one split.

    Attributes:
        levels: Semantic level → metric → {first, second, difference}, each an interval as JSON; the difference is
            first − second.
        n_clips: Clips that both versions scored.
        left_out: Clips that only one version scored, because the other's rules for usable audio refused them.
        unit: What was left out.
        table: Address of the figures as JSON.
    """

    split: str
    levels: dict[str, dict[str, dict[str, Any]]]
    n_clips: int
    left_out: int
    unit: str
    table: str


@dataclass(frozen=True)
class CompareResult:
    """A comparison, on each test split that both versions were evaluated on."""

    first: EvaluateResult
    second: EvaluateResult
    splits: list[SplitComparison]
    synthetic: bool


def run(config: Config, *, first: str, second: str) -> CompareResult:
    """Compare two registered versions, each a number, an alias or `models:/…`, on the corpus's test splits.

    Raises:
        RegistryError: There is no such version.
        InputError: Both are the same version (`same_version`); the corpus has no labelled test split
            (`no_test_split`); the versions have no clip (`no_common_clip`) or no output (`no_common_metric`) in common.
    """
    lake = Lake(config.lake)
    pair = evaluate.run(config, model=first), evaluate.run(config, model=second)
    names = [(result.model_name, result.version) for result in pair]
    if names[0] == names[1]:
        raise InputError(
            f"{first!r} and {second!r} are both version {names[0][1]} of {names[0][0]!r}",
            where="--compare",
            remedy="Name two versions",
            kind="same_version",
        )
    splits = [report.split for report in pair[0].reports if report.split in {one.split for one in pair[1].reports}]
    compared = [_compare(lake, pair, split, config.evaluate) for split in splits]
    return CompareResult(*pair, compared, config.corpus.kind == "synthetic")


def _compare(
    lake: Lake, results: tuple[EvaluateResult, EvaluateResult], split: str, options: EvaluateConfig
) -> SplitComparison:
    reports = [result.report(split) for result in results]
    first, second = stored.common_predictions(lake, results, split)
    if first.is_empty():
        raise InputError(
            "the two versions scored no clip in common",
            remedy="Their audio rules leave out too much",
            kind="no_common_clip",
        )
    pairs = {level: (level, level) for level in semantic_levels(first) if level in semantic_levels(second)}
    if reports[0].fullest != reports[1].fullest:
        pairs[FULLEST] = (reports[0].fullest, reports[1].fullest)
    metrics = _metrics(_at(first, list(pairs.values())[-1][0]), reports)
    levels: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (left, right) in pairs.items():
        levels[name] = {}
        for metric in metrics:
            frames = stored.on_common_clips(_at(first, left), _at(second, right))
            one, other = (interval(metric, frame, level=options.interval_level) for frame in frames)
            difference = paired_difference(metric, *frames, level=options.interval_level)
            found = {"first": one, "second": other, "difference": difference}
            levels[name][metric.name] = {key: value.to_dict() for key, value in found.items()}
    n_clips = first["utterance_id"].n_unique()
    names = [f"{result.model_name}-{result.version}" for result in results]
    table = lake.write_json(
        {"first": names[0], "second": names[1], "split": split, "n_clips": n_clips, "levels": levels},
        *("reports", "comparisons", f"{names[0]}-against-{names[1]}", f"{split}.json"),
    )
    left_out = sum(report.metrics["n_clips"] for report in reports) - 2 * n_clips
    return SplitComparison(split, levels, n_clips, left_out, difference.unit, table)


def _at(frame: pl.DataFrame, level: str) -> pl.DataFrame:
    return frame.filter(pl.col("level") == level)


def _metrics(frame: pl.DataFrame, reports: list[SplitReport]) -> list[Metric]:
    """Metrics that both versions can be evaluated by."""
    one, other = (report.metrics for report in reports)
    dimensions = [
        name for name in labelled_dimensions(frame) if name in one["dimensions"] and name in other["dimensions"]
    ]
    metrics = headline_metrics(dimensions, one["classes"] if one["classes"] == other["classes"] else [])
    if not metrics:
        raise InputError(
            "the two versions predict nothing in common",
            where="--compare",
            remedy="Compare models of the same dimensions, or of the same classes",
            kind="no_common_metric",
        )
    return metrics


def render(result: CompareResult) -> RenderableType:
    """The comparison as it is printed."""
    parts: list[RenderableType] = []
    for split in result.splits:
        some = next(iter(next(iter(split.levels.values())).values()))["difference"]
        table = titled_table(
            f"{split.split}: {split.n_clips:,} clips, {100 * some['level']:g} % intervals over {split.unit}s",
            ["input", "metric"],
            [
                *(f"{version.kind}, version {version.version}" for version in (result.first, result.second)),
                "difference",
            ],
        )
        for level, metrics in split.levels.items():
            for place, (metric, figures) in enumerate(metrics.items()):
                cells = [
                    tables.cell(figures[key], sign, tables.BESIDE)
                    for key, sign in (("first", ""), ("second", ""), ("difference", "+"))
                ]
                table.add_row("" if place else level_title(level), metric.replace("ccc_", "CCC "), *cells)
            table.add_section()
        parts.append(table)
        if split.left_out:
            parts.append(f"{split.left_out:,} clips were scored by one version only and are left out")
        parts.append(f"A difference whose interval contains 0 may be chance. Figures: {split.table}")
    return Group(*parts, *([SYNTHETIC_NOTE] if result.synthetic else []))
