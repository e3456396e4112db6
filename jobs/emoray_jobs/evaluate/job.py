"""evaluate: a registered version's predictions on the test split, at every semantic level, and the report on them.

The test split is scored once per version; another call reads the stored predictions, and writes the report anew only if
the options of the report changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.errors import InputError
from emoray.evaluation.pages import SYNTHETIC_NOTE
from emoray.evaluation.report import About, write_report
from emoray.evaluation.summary import LEVELS
from emoray.lake import Lake
from emoray.registry import versions
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import CHALLENGER, CHAMPION, Version
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import Bundle, open_bundle
from emoray_jobs.judging import find_version, predictions
from emoray_jobs.progress import waiting
from emoray_jobs.release import levels_of

if TYPE_CHECKING:
    from emoray_jobs.config import Config

TEST = re.compile(r"test\d*")
#: Metric → what tables call it.
TITLES = {
    **{f"ccc_{name}": f"CCC {name}" for name in DIMENSIONS},
    "ccc_mean": "CCC mean",
    "ua": "UA",
    "wa": "WA",
}
PREDICTIONS, METRICS, KEY = "predictions.parquet", "metrics.json", "key.json"


@dataclass(frozen=True)
class SplitReport:
    """The report on one split.

    Attributes:
        split: Name of the split.
        folder: Where the report lies.
        metrics: The tree of its metrics.json.
        reused: It was there before.
    """

    split: str
    folder: str
    metrics: dict[str, Any]
    reused: bool

    @property
    def page(self) -> str:
        """Address of the HTML page."""
        return f"{self.folder}/report.html"


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation found.

    Attributes:
        model_name: Name that the version is registered under.
        version: The version.
        kind: Name of the model.
        reports: One per test split.
    """

    model_name: str
    version: str
    kind: str
    reports: list[SplitReport]


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
        reports = [_judge(config, lake, tracking, stack, version, bundle, split) for split in splits]
    return EvaluateResult(version.name, version.version, bundle.config.name, reports)


def stored_predictions(lake: Lake, result: EvaluateResult, report: SplitReport) -> pl.DataFrame:
    """The predictions that a report rests on, at all semantic levels."""
    where = ("reports", result.model_name, result.version, report.split, PREDICTIONS)
    return pl.read_parquet(io.BytesIO(lake.read_bytes(*where)))


def test_splits(config: Config, lake: Lake) -> list[str]:
    """Names of the corpus's test splits; one whose labels are hidden (MSP-Podcast's test3) is there for submissions.

    Raises:
        InputError: It has none with a label.
    """
    labels = [*DIMENSIONS, "emotion"]
    frame = pl.from_arrow(lake.utterances(config.corpus.name, ["split", *labels]))
    assert isinstance(frame, pl.DataFrame)
    found = frame.filter(pl.any_horizontal(pl.col(labels).is_not_null()))["split"].drop_nulls().unique()
    splits = sorted(name for name in found if TEST.fullmatch(name))
    if not splits:
        raise InputError(
            f"corpus {config.corpus.name!r} has no test split with labels", remedy="Give some of its speakers to test"
        )
    return splits


def latest(tracking: Tracking) -> str:
    """The version that is judged where none is named: the challenger, else the champion."""
    return CHALLENGER if versions.find_alias(tracking, CHALLENGER) is not None else CHAMPION


def _judge(
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
    with waiting(f"evaluating version {version.version} on {split}"):
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


def store(lake: Lake, folder: str, where: Sequence[str], key: Mapping[str, str]) -> None:
    """Copy a report into the lake, its key last: a report with a key is whole."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                lake.write_bytes(file.read(), *where, os.path.relpath(path, folder).replace(os.sep, "/"))
    lake.write_json(dict(key), *where, KEY)


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


def ceiling(lake: Lake, corpus: str) -> dict[str, float]:
    """The best CCC that any predictor can reach per dimension on a synthetic corpus."""
    from emoray.corpora import synthetic

    return synthetic.ceiling(lake, corpus)


def corpus_hash(lake: Lake, corpus: str, split: str) -> str:
    """Hash of a split's clips and labels."""
    columns = ["utterance_id", "split", "audio_uri", "start_s", "end_s", "valence", "arousal", "dominance", "emotion"]
    frame = pl.from_arrow(lake.utterances(corpus, columns))
    assert isinstance(frame, pl.DataFrame)
    return hashlib.sha256(frame.filter(pl.col("split") == split).sort("utterance_id").write_csv().encode()).hexdigest()


def digest(what: Mapping[str, Any]) -> str:
    """16 hexadecimal characters over what a report rests on."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


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


def cell(entry: Mapping[str, Any] | None, sign: str = "") -> str:
    """An estimate over its interval."""
    if entry is None or entry["estimate"] is None:
        return "–"
    text = f"{entry['estimate']:{sign}.3f}"
    return text if entry["low"] is None else f"{text}\n{entry['low']:{sign}.3f} … {entry['high']:{sign}.3f}"


def notes(report: SplitReport) -> list[str]:
    """What a reader of the table must know."""
    notes = [report.metrics["warning"]] if report.metrics["warning"] else []
    if report.reused:
        notes.append("Scored before; the test split is scored once per version.")
    return notes + ([SYNTHETIC_NOTE] if report.metrics["about"]["synthetic"] else [])
