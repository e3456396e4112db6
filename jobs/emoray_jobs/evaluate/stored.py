"""Evaluations kept on the lake: where they are, what they hold, and what reports read of them."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from emoray.errors import InputError
from emoray.evaluation.pages import SYNTHETIC_NOTE
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.tracking import Tracking
from emoray.registry.versions import CHALLENGER, CHAMPION
from emoray.schema import DIMENSIONS

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


def store(lake: Lake, folder: str, where: Sequence[str], key: Mapping[str, str]) -> None:
    """Copy a report into the lake, its key last: a report with a key is whole."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                lake.write_bytes(file.read(), *where, os.path.relpath(path, folder).replace(os.sep, "/"))
    lake.write_json(dict(key), *where, KEY)


def ceiling(lake: Lake, corpus: str) -> dict[str, float]:
    """The best CCC that any predictor can reach per dimension on a synthetic corpus."""
    from emoray.corpora.synthetic import build as synthetic

    return synthetic.ceiling(lake, corpus)


def corpus_hash(lake: Lake, corpus: str, split: str) -> str:
    """Hash of a split's clips and labels."""
    columns = ["utterance_id", "split", "audio_uri", "start_s", "end_s", "valence", "arousal", "dominance", "emotion"]
    frame = pl.from_arrow(lake.utterances(corpus, columns))
    assert isinstance(frame, pl.DataFrame)
    return hashlib.sha256(frame.filter(pl.col("split") == split).sort("utterance_id").write_csv().encode()).hexdigest()


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
