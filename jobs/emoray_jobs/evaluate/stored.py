"""Reports kept on the lake: written once for what they rest on, found again by its digest, read by other reports."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from emoray.corpora import CorpusConfig, ceiling
from emoray.errors import InputError
from emoray.evaluation.report import About, Report
from emoray.evaluation.summary import check_predictions
from emoray.lake.tables import Lake
from emoray.registry.tracking import Tracking
from emoray.schema import DIMENSIONS
from emoray_jobs.train.run_record import baselines_file

TEST = re.compile(r"test\d*")
#: Of an utterance: it has a label.
LABELLED = pl.any_horizontal(pl.col(*DIMENSIONS, "emotion").is_not_null())
#: What no baseline is known for, as a report's readers see it.
NO_BASELINES = "No baselines: the version's training stored none; train it again with this version of emoray."
PREDICTIONS, METRICS, KEY = "predictions.parquet", "metrics.json", "key.json"


@dataclass(frozen=True)
class SplitReport:
    """The report on one split.

    Attributes:
        folder: Address of the report's folder.
        metrics: The tree of its metrics.json.
        reused: Whether an earlier call wrote it (not compared).
    """

    split: str
    folder: str
    metrics: dict[str, Any]
    reused: bool = field(compare=False)

    @property
    def page(self) -> str:
        """Address of the HTML page."""
        return f"{self.folder}/report.html"

    @property
    def fullest(self) -> str:
        """The richest semantic level that the report covers."""
        return str(list(self.metrics["levels"])[-1])

    @property
    def best(self) -> dict[str, dict[str, Any]]:
        """Metrics at the richest level: name → interval as JSON."""
        return dict(self.metrics["levels"][self.fullest]["metrics"])


@dataclass(frozen=True)
class EvaluateResult:
    """The evaluation of a registered version.

    Attributes:
        model_name: Name that the version is registered under.
        kind: Name of the model.
    """

    model_name: str
    version: str
    kind: str
    reports: list[SplitReport]

    def report(self, split: str) -> SplitReport:
        """The report on a split."""
        return next(report for report in self.reports if report.split == split)


def reuse_or_write(
    lake: Lake,
    where: Sequence[str],
    split: str,
    key: Mapping[str, str],
    write: Callable[[str], Report],
    *,
    reuse: bool = True,
) -> SplitReport:
    """Read the report that is stored with a key, or write and store it.

    Args:
        where: Folder of the report below the lake's root.
        key: Digests of what the report rests on; `reported` decides whether the stored one counts.
        write: Writes the report to a local folder and logs it. A call that is killed before the report is stored
            leaves no key, so the next call writes and logs again.
    """
    if reuse and stored_key(lake, where).get("reported") == key["reported"]:
        return SplitReport(split, lake.uri(*where), lake.read_json(*where, METRICS), reused=True)
    with tempfile.TemporaryDirectory(prefix="emoray-report-") as folder:
        report = write(folder)
        for root, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(root, name)
                with open(path, "rb") as file:
                    lake.write_bytes(file.read(), *where, os.path.relpath(path, folder).replace(os.sep, "/"))
        lake.write_json(dict(key), *where, KEY)  # last: a report with a key is whole
    return SplitReport(split, lake.uri(*where), report.metrics, reused=False)


def stored_key(lake: Lake, where: Sequence[str]) -> dict[str, str]:
    """The key of a stored report; empty where there is none."""
    return dict(lake.read_json(*where, KEY)) if lake.exists(*where, KEY) else {}


def log_report(tracking: Tracking, run_id: str, split: str, report: Report, *, model_id: str | None = None) -> None:
    """Log a report's folder and its estimates to an MLflow run, and to the logged model that they are of."""
    tracking.log_folder(run_id, report.folder, f"report/{split}")
    figures = {f"{split}/{name}": value for name, value in report.flat().items()}
    tracking.log_once(run_id, figures, dataset=tracking.dataset(run_id, split), model_id=model_id)


def stored_predictions(lake: Lake, where: Sequence[str]) -> pl.DataFrame:
    """The predictions that a report rests on, at all semantic levels."""
    return pl.read_parquet(lake.read_bytes(*where, PREDICTIONS))


def baselines_of(lake: Lake, run: str | None, split: str) -> pl.DataFrame | None:
    """Predictions of a training's baselines on a split; None where it stored none, as before there were any."""
    if run is None or not lake.exists(*baselines_file(run)):
        return None
    frame = pl.read_parquet(lake.read_bytes(*baselines_file(run))).filter(pl.col("split") == split)
    return None if frame.is_empty() else frame


def common_predictions(lake: Lake, results: Sequence[EvaluateResult], split: str) -> list[pl.DataFrame]:
    """Stored predictions of several versions on the clips of a split that all of them scored, in the results' order."""
    frames = [
        check_predictions(stored_predictions(lake, ("reports", one.model_name, one.version, split))) for one in results
    ]
    common = set.intersection(*(set(frame["utterance_id"]) for frame in frames))
    return [frame.filter(pl.col("utterance_id").is_in(common)) for frame in frames]


def on_common_clips(first: pl.DataFrame, second: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two predictions frames of one level each, on the clips that both have: enrolment clips may differ."""
    both = set(first["utterance_id"]) & set(second["utterance_id"])
    one, other = (frame.filter(pl.col("utterance_id").is_in(both)) for frame in (first, second))
    return one, other


def labelled_splits(lake: Lake, corpus: str) -> list[str]:
    """Names of a corpus's splits that have labels."""
    frame = pl.DataFrame(lake.utterances(corpus, ["split", *DIMENSIONS, "emotion"]))
    return frame.filter(LABELLED)["split"].drop_nulls().unique().sort().to_list()


def test_splits(lake: Lake, corpus: str) -> list[str]:
    """Names of a corpus's test splits that have labels (those of MSP-Podcast's test3 are hidden).

    Raises:
        InputError: No test split has labels (`no_test_split`).
    """
    splits = sorted(name for name in labelled_splits(lake, corpus) if TEST.fullmatch(name))
    if not splits:
        raise InputError(
            f"corpus {corpus!r} has no test split with labels",
            remedy="Give some of its speakers to test",
            kind="no_test_split",
        )
    return splits


def about(lake: Lake, corpus: CorpusConfig, title: str, *, facts: Mapping[str, str], protocol: Sequence[str]) -> About:
    """What a report says of its source; on a synthetic corpus also the best CCC that any predictor can reach."""
    synthetic = corpus.kind == "synthetic"
    best = ceiling(lake, corpus.name) if synthetic else None
    return About(title, corpus.name, facts=facts, protocol=protocol, ceiling=best, synthetic=synthetic)


def corpus_hash(lake: Lake, corpus: str, split: str) -> str:
    """Hash of a split's clips and labels."""
    columns = ["utterance_id", "split", "audio_uri", "start_s", "end_s", "valence", "arousal", "dominance", "emotion"]
    frame = pl.DataFrame(lake.utterances(corpus, columns))
    return hashlib.sha256(frame.filter(pl.col("split") == split).sort("utterance_id").write_csv().encode()).hexdigest()
