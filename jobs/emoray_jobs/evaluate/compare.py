"""compare: two registered versions on the same test clips, with paired differences (evaluate --compare A B).

Each version is evaluated first, if it was not; what is compared are the predictions that its evaluation stored, so the
test split is scored once per version here too. Differences resample speakers with both models' clips (paired
bootstrap): they are far narrower than the difference of two intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.errors import InputError
from emoray.evaluation.bootstrap import interval, paired_difference
from emoray.evaluation.metrics import Metric, categorical, dimensional, labelled_dimensions, mean_ccc
from emoray.evaluation.pages import SYNTHETIC_NOTE
from emoray.evaluation.summary import LEVELS, check_predictions, semantic_levels
from emoray.lake.tables import Lake
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.evaluate.stored import EvaluateResult, SplitReport, stored_predictions

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Instead of one level: each model with all that it hears.
FULLEST = "everything that it hears"
SIDES = ("first", "second")


@dataclass(frozen=True)
class SplitComparison:
    """The comparison on one split.

    Attributes:
        split: Its name.
        levels: Semantic level → metric → {first, second, difference}, each an interval as JSON; the difference is
            first − second.
        n_clips: Clips that both versions scored.
        left_out: Clips that only one of them scored: its rules for usable audio let them pass.
        unit: What was resampled.
        table: Where the figures lie, as JSON.
    """

    split: str
    levels: dict[str, dict[str, dict[str, Any]]]
    n_clips: int
    left_out: int
    unit: str
    table: str


@dataclass(frozen=True)
class CompareResult:
    """What a comparison found.

    Attributes:
        first: Evaluation of the first version.
        second: That of the second.
        splits: One comparison per test split that both were evaluated on.
        synthetic: The corpus is synthetic: its figures test machinery.
    """

    first: EvaluateResult
    second: EvaluateResult
    splits: list[SplitComparison]
    synthetic: bool


def run(config: Config, *, first: str, second: str) -> CompareResult:
    """Compare two registered versions on the corpus's test splits.

    Args:
        config: The jobs' configuration.
        first: Number, alias or `models:/…`.
        second: The same of the other.

    Raises:
        RegistryError: There is no such version.
        InputError: Both are the same version; the corpus has no labelled test split; nothing can be compared.
    """
    lake = Lake(config.lake)
    one, other = (evaluate.run(config, model=model) for model in (first, second))
    if (one.model_name, one.version) == (other.model_name, other.version):
        raise InputError(
            f"{first!r} and {second!r} are both version {one.version} of {one.model_name!r}",
            where="--compare",
            remedy="Name two versions",
        )
    reports = {report.split: report for report in other.reports}
    splits = [
        _compare(config, lake, (one, other), (report, reports[report.split]))
        for report in one.reports
        if report.split in reports
    ]
    return CompareResult(one, other, splits, config.corpus.kind == "synthetic")


def _compare(
    config: Config, lake: Lake, sides: tuple[EvaluateResult, EvaluateResult], reports: tuple[SplitReport, SplitReport]
) -> SplitComparison:
    frames = [
        check_predictions(stored_predictions(lake, result, report))
        for result, report in zip(sides, reports, strict=True)
    ]
    both = set(frames[0]["utterance_id"]) & set(frames[1]["utterance_id"])
    every = set(frames[0]["utterance_id"]) | set(frames[1]["utterance_id"])
    pairs = _pairs(*(frame.filter(pl.col("utterance_id").is_in(both)) for frame in frames))
    metrics = _metrics(pairs[FULLEST if FULLEST in pairs else next(iter(pairs))][0], reports)
    options = config.evaluate.bootstrap
    levels: dict[str, dict[str, dict[str, Any]]] = {}
    unit = ""
    for level, pair in pairs.items():
        levels[level] = {}
        for name, metric in metrics.items():
            difference = paired_difference(metric, *pair, **options)
            unit = difference.unit
            plain = {side: interval(metric, frame, **options) for side, frame in zip(SIDES, pair, strict=True)}
            levels[level][name] = {key: one.to_dict() for key, one in (plain | {"difference": difference}).items()}
    names = [f"{result.model_name}-{result.version}" for result in sides]
    table = lake.write_json(
        {"first": names[0], "second": names[1], "split": reports[0].split, "n_clips": len(both), "levels": levels},
        *("reports", "comparisons", f"{names[0]}-against-{names[1]}", f"{reports[0].split}.json"),
    )
    return SplitComparison(reports[0].split, levels, len(both), len(every) - len(both), unit, table)


def _pairs(first: pl.DataFrame, second: pl.DataFrame) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """What is held against each other: the levels that both have, and each model's fullest where these differ."""
    if first.is_empty():
        raise InputError("the two versions scored no clip in common", remedy="Their audio rules leave out too much")
    fullest = [semantic_levels(frame)[-1] for frame in (first, second)]
    common = [level for level in semantic_levels(first) if level in semantic_levels(second)]
    pairs = {level: (_at(first, level), _at(second, level)) for level in common}
    if fullest[0] != fullest[1]:
        pairs[FULLEST] = (_at(first, fullest[0]), _at(second, fullest[1]))
    return pairs


def _at(frame: pl.DataFrame, level: str) -> pl.DataFrame:
    return frame.filter(pl.col("level") == level)


def _metrics(frame: pl.DataFrame, reports: tuple[SplitReport, SplitReport]) -> dict[str, Metric]:
    """Metrics that both versions can be judged by."""
    labelled = labelled_dimensions(frame)
    dimensions = [name for name in labelled if all(name in report.metrics["dimensions"] for report in reports)]
    found = {f"ccc_{name}": dimensional("ccc", name) for name in dimensions}
    if dimensions:
        found["ccc_mean"] = mean_ccc(dimensions)
    classes = [report.metrics["classes"] for report in reports]
    if classes[0] and classes[0] == classes[1]:
        found |= {kind: categorical(kind, classes[0]) for kind in ("ua", "wa")}
    if not found:
        raise InputError(
            "the two versions predict nothing in common",
            where="--compare",
            remedy="Compare models of the same dimensions, or of the same classes",
        )
    return found


def render(result: CompareResult) -> RenderableType:
    """The comparison as it is printed."""
    parts: list[RenderableType] = []
    for split in result.splits:
        first = next(iter(split.levels.values()))
        level = next(iter(first.values()))["difference"]["level"]
        table = Table(
            title=f"{split.split}: {split.n_clips:,} clips, {100 * level:g} % intervals over {split.unit}s",
            title_justify="left",
        )
        for column in ("hears", "metric"):
            table.add_column(column)
        for side in (result.first, result.second):
            table.add_column(f"{side.kind}, version {side.version}", justify="right")
        table.add_column("difference", justify="right")
        for name, metrics in split.levels.items():
            for place, (metric, figures) in enumerate(metrics.items()):
                cells = [_cell(figures[side]) for side in SIDES]
                shown = LEVELS.get(name, name) if place == 0 else ""
                table.add_row(shown, metric.replace("ccc_", "CCC "), *cells, _cell(figures["difference"], sign="+"))
            table.add_section()
        parts.append(table)
        if split.left_out:
            parts.append(f"{split.left_out:,} clips were scored by one version only and are left out")
        parts.append(f"A difference whose interval contains 0 may be chance. Figures: {split.table}")
    return Group(*parts, *([SYNTHETIC_NOTE] if result.synthetic else []))


def _cell(entry: dict[str, Any], sign: str = "") -> str:
    if entry["estimate"] is None:
        return "–"
    text = f"{entry['estimate']:{sign}.3f}"
    return text if entry["low"] is None else f"{text} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"
