"""evaluate: a registered version's predictions on the test split, at every semantic level, and the report on them.

The test split is scored once per version; another call reads the stored predictions, and writes the report anew only if
the options of the report changed.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.digest import digest
from emoray.evaluation.report import About, write_report
from emoray.evaluation.summary import LEVELS
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import Version
from emoray.scoring.bundle import Bundle, open_bundle
from emoray_jobs.evaluate.predictions import find_version, predictions
from emoray_jobs.evaluate.stored import (
    KEY,
    METRICS,
    PREDICTIONS,
    TITLES,
    EvaluateResult,
    SplitReport,
    ceiling,
    cell,
    corpus_hash,
    latest,
    notes,
    store,
    test_splits,
)
from emoray_jobs.progress import spinner
from emoray_jobs.train.register import levels_of

if TYPE_CHECKING:
    from emoray_jobs.config import Config


def run(config: Config, *, model: str | None = None) -> EvaluateResult:
    """Judge a registered version on the corpus's test splits and log the report to its MLflow run.

    Args:
        config: The jobs' configuration.
        model: Number, alias or `models:/…`; the challenger if left out, the champion if there is none.

    Raises:
        RegistryError: There is no such version.
        InputError: The corpus has no labelled test split.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    version = find_version(tracking, model or latest(tracking))
    bundle = open_bundle(versions.fetch(tracking, version))
    splits = test_splits(config, lake)
    with contextlib.ExitStack() as stack:
        reports = [_evaluate_split(config, lake, tracking, stack, version, bundle, split) for split in splits]
    return EvaluateResult(version.name, version.version, bundle.config.name, reports)


def _evaluate_split(
    config: Config,
    lake: Lake,
    tracking: Tracking,
    stack: contextlib.ExitStack,
    version: Version,
    bundle: Bundle,
    split: str,
) -> SplitReport:
    where = ("reports", version.name, version.version, split)
    scored = digest({"source": version.source, "corpus": corpus_hash(lake, config.corpus.name, split)})
    reported = digest({"scored": scored, "evaluate": config.evaluate.model_dump(mode="json")})
    key = lake.read_json(*where, KEY) if lake.exists(*where, KEY) else {}
    if key.get("reported") == reported:
        return SplitReport(split, lake.uri(*where), lake.read_json(*where, METRICS), reused=True)
    with spinner(f"evaluating version {version.version} on {split}"):
        if key.get("scored") == scored:
            judged = pl.read_parquet(io.BytesIO(lake.read_bytes(*where, PREDICTIONS)))
        else:
            judged = predictions(config, lake, stack, bundle, [split], levels_of(bundle.config))
        dev = predictions(config, lake, stack, bundle, ["dev"], levels_of(bundle.config)[-1:])
        with tempfile.TemporaryDirectory(prefix="emoray-report-") as work:
            report = write_report(
                work,
                judged,
                config.evaluate,
                _about(config, lake, version, bundle, split),
                dev=dev,
                half_widths=bundle.half_widths,
                classes=bundle.config.classes,
            )
            store(lake, work, where, {"scored": scored, "reported": reported})
            tracking.log_folder(version.run_id, work, f"report/{split}")
    tracking.log_once(version.run_id, {f"{split}/{name}": value for name, value in report.flat().items()})
    return SplitReport(split, lake.uri(*where), report.metrics, reused=False)


def _about(config: Config, lake: Lake, version: Version, bundle: Bundle, split: str) -> About:
    synthetic = config.corpus.kind == "synthetic"
    return About(
        title=f"{version.name} version {version.version} ({bundle.config.name}) on {config.corpus.name}, {split}",
        corpus=config.corpus.name,
        facts={"model version": version.version, "MLflow run": version.run_id, **version.tags},
        protocol=[
            "Speakers of train occur in no other split; the epoch was selected on dev.",
            f"{split} was scored once, by the registered version, and decided nothing.",
        ],
        ceiling=ceiling(lake, config.corpus.name) if synthetic else None,
        synthetic=synthetic,
    )


def render(result: EvaluateResult) -> RenderableType:
    """The tables as they are printed."""
    parts: list[RenderableType] = []
    for report in result.reports:
        parts += [table([result], report.split), *notes(report), f"Report: {report.page}"]
    return Group(*parts)


def table(results: Sequence[EvaluateResult], split: str) -> Table:
    """Metrics with their intervals: one row per version and semantic level, and the ceiling where it is known.

    Args:
        results: Evaluations on the same corpus.
        split: The split to show.
    """
    reports = [(result, report) for result in results for report in result.reports if report.split == split]
    first = reports[0][1].metrics
    names = [f"ccc_{d}" for d in first["dimensions"]] + (["ccc_mean"] if first["dimensions"] else [])
    names += ["ua", "wa"] if first["classes"] else []
    heading = (
        f"{split}: {first['n_clips']:,} clips, {first['n_speakers']} speakers; {100 * first['interval_level']:g} %"
    )
    shown = Table(title=f"{heading} intervals over {first['unit']}s", title_justify="left")
    for column in ("model", "hears"):
        shown.add_column(column)
    for name in names:
        shown.add_column(TITLES[name], justify="right")
    nominal = next((found for _, report in reports if (found := report.metrics["conformal_level"]) is not None), None)
    if nominal is not None:
        shown.add_column(f"{100 * nominal:g} % intervals cover", justify="right")
    for result, report in reports:
        for level, figures in report.metrics["levels"].items():
            cells = [cell(figures["metrics"][name]) for name in names]
            if nominal is not None:
                shares = [f"{100 * share:.0f}" for share in (figures["coverage"] or {}).values()]
                cells.append(f"{' / '.join(shares)} %" if shares else "–")
            shown.add_row(f"{result.kind}, version {result.version}", LEVELS.get(level, level), *cells)
    reachable = first["about"]["ceiling"]
    if reachable:
        limits = {f"ccc_{d}": value for d, value in reachable.items()}
        limits.setdefault("ccc_mean", sum(reachable.values()) / len(reachable))
        cells = [f"{limits[name]:.3f}" if name in limits else "" for name in names]
        shown.add_row("ceiling", "given the label noise", *cells, *([] if nominal is None else [""]), style="dim")
    return shown
