"""robustness: a registered version on test clips that are made worse: noise, codecs, speed, wrong and missing words.

The clips are scored from their audio, as online. The result decides nothing. The same version, clips and options are
scored once: another call reads the stored report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType

from emoray.digest import digest
from emoray.errors import InputError
from emoray.evaluation import figures, pages
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.intervals import clusters, interval, paired_difference
from emoray.evaluation.metrics import labelled_dimensions
from emoray.evaluation.report import Report, write_folder
from emoray.evaluation.robustness import CURVES, KINDS, Condition, RobustnessConfig, conditions
from emoray.evaluation.summary import TITLES, check_predictions, headline_metrics, level_title
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.tracking import connect
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import open_bundle
from emoray.scoring.predictions import predict_rows
from emoray.scoring.scorer import Scorer
from emoray.stages.base import Row
from emoray_jobs.evaluate import stored, tables
from emoray_jobs.evaluate.predictions import corpus_scorer, find_version, utterance_rows
from emoray_jobs.evaluate.stored import SplitReport
from emoray_jobs.progress import track
from emoray_jobs.tables import titled_table
from emoray_jobs.train.local import torch_threads
from emoray_jobs.train.register import levels_of

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Predictions under one condition.
Scored = tuple[Condition, pl.DataFrame]


@dataclass(frozen=True)
class RobustnessResult:
    """A version's scores under each condition, which the metrics of the stored report list."""

    title: str
    report: SplitReport
    synthetic: bool


def run(config: Config, *, model: str | None = None) -> RobustnessResult:
    """Score clips of the first test split as they are and made worse, and report what that costs.

    Raises:
        RegistryError: There is no such version.
        InputError: The corpus has no labelled test split (`no_test_split`), or no label of what the model predicts.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    version = find_version(tracking, model)
    split = stored.test_splits(lake, config.corpus.name)[0]
    title = f"Robustness of {version.name} version {version.version} on {config.corpus.name}"
    synthetic = config.corpus.kind == "synthetic"

    def write(folder: str) -> Report:
        scorer = corpus_scorer(lake, config.corpus.name, open_bundle(versions.fetch(tracking, version)))
        rows, vocabulary = _clips(lake, config.corpus.name, split, scorer, config.robustness.clips)
        with torch_threads(config.launch.threads):
            scored = _score(scorer, rows, vocabulary, config.robustness)
        report = _write(
            folder,
            split,
            scored,
            scorer.bundle.config.classes,
            config.evaluate,
            {"title": title, "synthetic": synthetic},
        )
        tracking.log_folder(version.run_id, folder, f"robustness/{split}")
        return report

    reported = {
        "source": version.source,
        "corpus": stored.corpus_hash(lake, config.corpus.name, split),
        "robustness": config.robustness.model_dump(mode="json"),
        "evaluate": config.evaluate.model_dump(mode="json"),
    }
    where = ("reports", version.name, version.version, split, "robustness")
    report = stored.reuse_or_write(lake, where, split, {"reported": digest(reported)}, write)
    return RobustnessResult(title, report, synthetic)


def _clips(lake: Lake, corpus: str, split: str, scorer: Scorer, at_most: int) -> tuple[list[Row], list[str]]:
    """Labelled clips, spread over the split, with their waveforms; and the words of the whole split."""
    columns = ["utterance_id", "split", "transcript", *DIMENSIONS, "emotion"]
    frame = pl.DataFrame(lake.utterances(corpus, columns)).filter(pl.col("split") == split)
    ids = frame.filter(stored.LABELLED).sort("utterance_id")["utterance_id"]
    clips = min(at_most, len(ids))
    chosen = [ids[place * len(ids) // clips] for place in range(clips)]
    words = frame["transcript"].drop_nulls().str.split(" ").explode()
    return utterance_rows(lake, corpus, chosen, scorer.bundle), sorted(set(words))


def _score(scorer: Scorer, rows: list[Row], vocabulary: list[str], config: RobustnessConfig) -> list[Scored]:
    """Predictions under every condition; the last conditions withhold text step by step."""
    bundle = scorer.bundle
    reads_words = bundle.annotate.transcribe.kind == "reference"
    levels = levels_of(bundle.config, [one.name for one in bundle.conditions])
    todo = [
        (condition, levels[-1])
        for condition in conditions(config, vocabulary, reads_words=reads_words and len(levels) > 1)
    ]
    todo += [
        (Condition("semantics", None, level_title(level), lambda row: row), level) for level in reversed(levels[:-1])
    ]
    scored = []
    with track("scoring under conditions", "clips") as advance:
        for number, (condition, level) in enumerate(todo, start=1):
            frame = predict_rows(scorer, [condition.change(row) for row in rows], level=level)
            scored.append((condition, check_predictions(frame)))
            advance(number * len(rows), len(todo) * len(rows))
    return scored


def _write(
    folder: str,
    split: str,
    scored: Sequence[Scored],
    classes: Sequence[str],
    options: EvaluateConfig,
    about: dict[str, Any],
) -> Report:
    """Measure the conditions, and write metrics.json, predictions.parquet, the figure and the page."""
    clean = scored[0][1]
    dimensions = labelled_dimensions(clean)
    metrics = headline_metrics(dimensions, classes if clean["emotion_true"].is_not_null().any() else [])
    if not metrics:
        raise InputError(
            "no clip has a label of what the model predicts", remedy="See emoray corpus stats", kind="nothing_labelled"
        )
    headline = next(metric for metric in metrics if metric.name in ("ccc_mean", "ua"))
    entries = [
        {
            "kind": condition.kind,
            "name": condition.name,
            "amount": condition.amount,
            "metrics": {
                metric.name: interval(metric, frame, level=options.interval_level).to_dict() for metric in metrics
            },
            "loss": None
            if frame is clean
            else paired_difference(
                headline, *stored.on_common_clips(frame, clean), level=options.interval_level
            ).to_dict(),
        }
        for condition, frame in scored
    ]
    found = {
        "split": split,
        "n_clips": clean.height,
        "unit": clusters(clean).unit,
        "interval_level": options.interval_level,
        "dimensions": dimensions,
        "headline": headline.name,
        "shown": [metric.name for metric in metrics],
        "conditions": entries,
    }
    kinds = {kind: KINDS[kind] for kind in CURVES if any(one["kind"] == kind for one in entries)}
    drawn = {"robustness": figures.robustness(entries, kinds, dimensions)} if kinds and dimensions else {}
    frames = [frame.with_columns(condition=pl.lit(one.name), kind=pl.lit(one.kind)) for one, frame in scored]
    percent = f"{100 * options.interval_level:g}"
    page = {"about": about, "r": found, "percent": percent}
    return write_folder(folder, found, pl.concat(frames), drawn, "robustness.html.j2", **page)


def render(result: RobustnessResult) -> RenderableType:
    """The table as it is printed."""
    found = result.report.metrics
    table = titled_table(
        f"{result.title}, {result.report.split}: {found['n_clips']:,} clips",
        ["condition"],
        [*(TITLES[name] for name in found["shown"]), "difference from clean"],
    )
    for one in found["conditions"]:
        cells = [tables.cell(one["metrics"][name]) for name in found["shown"]]
        table.add_row(one["name"], *cells, "" if one["loss"] is None else tables.cell(one["loss"], sign="+"))
    notes = ["Scored before, with the same options."] if result.report.reused else []
    notes += [pages.SYNTHETIC_NOTE] if result.synthetic else []
    return Group(table, *notes, f"Report: {result.report.page}")
