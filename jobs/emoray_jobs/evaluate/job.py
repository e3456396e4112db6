"""evaluate: a registered version's predictions on the test split, at every semantic level, and the report on them.

The test split is scored once per version. Another call reads the stored predictions, and writes the report again only
if the options of the report changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.corpora import CorpusConfig
from emoray.digest import digest
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.pages import SYNTHETIC_NOTE
from emoray.evaluation.report import Report, write_report
from emoray.evaluation.summary import TITLES, level_title
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.publish import example
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import Version
from emoray.scoring.bundle import Bundle, open_bundle
from emoray_jobs.evaluate import stored, tables
from emoray_jobs.evaluate.predictions import find_version, predictions
from emoray_jobs.evaluate.stored import EvaluateResult, SplitReport
from emoray_jobs.progress import spinner
from emoray_jobs.tables import titled_table
from emoray_jobs.train.register import levels_of

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: What reports say where there is no dev split.
NO_DEV = "there was no dev split, so the last epoch counts and scores have no intervals"
#: Predicts a split at semantic levels.
Predict = Callable[[str, Sequence[str]], pl.DataFrame]


def run(config: Config, *, model: str | None = None) -> EvaluateResult:
    """Evaluate a registered version on the corpus's test splits and log the report to its MLflow run.

    Raises:
        RegistryError: There is no such version.
        InputError: The corpus has no labelled test split (`no_test_split`).
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    version = find_version(tracking, model)
    bundle = open_bundle(versions.fetch(tracking, version))
    with contextlib.ExitStack() as stack:

        def predict(split: str, levels: Sequence[str]) -> pl.DataFrame:
            return predictions(
                lake,
                bundle,
                [split],
                levels,
                corpus=config.corpus.name,
                annotate=config.annotate,
                cluster=config.cluster,
                launch=config.launch,
                stack=stack,
            )

        reports = [
            _evaluate_split(lake, tracking, version, bundle, split, config.corpus, config.evaluate, predict)
            for split in stored.test_splits(lake, config.corpus.name)
        ]
    return EvaluateResult(version.name, version.version, bundle.config.name, reports)


def _evaluate_split(
    lake: Lake,
    tracking: Tracking,
    version: Version,
    bundle: Bundle,
    split: str,
    corpus: CorpusConfig,
    options: EvaluateConfig,
    predict: Predict,
) -> SplitReport:
    where, levels = (
        ("reports", version.name, version.version, split),
        levels_of(bundle.config, [one.name for one in bundle.conditions]),
    )
    has_dev = "dev" in stored.labelled_splits(lake, corpus.name)
    scored = digest({"source": version.source, "corpus": stored.corpus_hash(lake, corpus.name, split)})
    baselines = stored.baselines_of(lake, version.tags.get("emoray.run"), split)
    reported = digest(
        {"scored": scored, "evaluate": options.model_dump(mode="json"), "baselines": baselines is not None}
    )
    about = stored.about(
        lake,
        corpus,
        f"{version.name} version {version.version} ({bundle.config.name}) on {corpus.name}, {split}",
        facts={
            "model version": version.version,
            "MLflow run": version.run_id,
            **{name: value for name, value in version.tags.items() if name != example.TAG},
        },
        protocol=[
            f"Speakers of train occur in no other split; {'the epoch was selected on dev' if has_dev else NO_DEV}.",
            f"{split} was scored once, by the registered version, and decided nothing.",
        ],
    )

    def write(folder: str) -> Report:
        with spinner(f"evaluating version {version.version} on {split}"):
            known = stored.stored_key(lake, where).get("scored") == scored
            scores = stored.stored_predictions(lake, where) if known else predict(split, levels)
            dev, classes = predict("dev", levels[-1:]) if has_dev else None, bundle.config.classes
            report = write_report(
                folder,
                scores,
                options,
                about,
                dev=dev,
                half_widths=bundle.half_widths,
                classes=classes,
                baselines=baselines,
            )
        stored.log_report(tracking, version.run_id, split, report, model_id=version.model_id)
        return report

    return stored.reuse_or_write(lake, where, split, {"scored": scored, "reported": reported}, write)


def render(result: EvaluateResult) -> RenderableType:
    """The tables as they are printed."""
    parts: list[RenderableType] = []
    for report in result.reports:
        parts += [table([result], report.split), *notes(report), f"Report: {report.page}"]
    return Group(*parts)


def table(results: Sequence[EvaluateResult], split: str) -> Table:
    """Metrics with their intervals: one row per version and semantic level, and the ceiling where it is known."""
    reports = [(result, result.report(split)) for result in results]
    first = reports[0][1].metrics
    names = tables.metric_names(first)
    nominal = next((found for _, report in reports if (found := report.metrics["conformal_level"]) is not None), None)
    shown = titled_table(
        f"{split}: {first['n_clips']:,} clips, {first['n_speakers']} speakers;"
        f" {100 * first['interval_level']:g} % intervals over {first['unit']}s",
        ["model", "input"],
        [*(TITLES[name] for name in names), *([] if nominal is None else [f"{100 * nominal:g} % intervals cover"])],
    )
    for result, report in reports:
        for level, figures in report.metrics["levels"].items():
            cells = [tables.cell(figures["metrics"][name]) for name in names]
            if nominal is not None:
                shares = [f"{100 * share:.0f}" for share in (figures["coverage"] or {}).values()]
                cells.append(f"{' / '.join(shares)} %" if shares else "–")
            shown.add_row(f"{result.kind}, version {result.version}", level_title(level), *cells)
    for result, report in reports:
        for name, figures in (report.metrics.get("baselines") or {}).items():
            whose = f"{result.kind}, version {result.version}"
            for label, key, sign in ((name, "metrics", ""), (f"{whose} − {name}", "differences", "+")):
                cells = [tables.cell(figures[key].get(metric), sign) for metric in names]
                shown.add_row(
                    label, "sound alone" if key == "metrics" else "paired", *cells, *([] if nominal is None else [""])
                )
    if limits := tables.ceilings(first):
        cells = tables.ceiling_cells(limits, names)
        shown.add_row("ceiling", "given the label noise", *cells, *([] if nominal is None else [""]), style="dim")
    return shown


def notes(report: SplitReport) -> list[str]:
    """What a reader of the table must know."""
    notes = [report.metrics["warning"]] if report.metrics["warning"] else []
    notes += [] if report.metrics.get("baselines") else [stored.NO_BASELINES]
    if report.reused:
        notes.append("Scored before; the test split is scored once per version.")
    return notes + ([SYNTHETIC_NOTE] if report.metrics["about"]["synthetic"] else [])
