"""Utterances and scores for the tests of what is exported."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from emoray.interchange.label import ExportStats, Label, labels
from emoray.schema import DIMENSIONS, ERROR, GRANULARITIES, empty_row, utterances_table

SCALE = {"scale_min": 1.0, "scale_max": 7.0}
#: Valence, arousal and dominance on the scale 1..7: all different, so that no two can be mixed up unseen.
VAD = (2.2, 4.0, 2.6)
PARTS = ("value", "low", "high", "corpus", "corpus_low", "corpus_high")


def utterance(name: str, vad: tuple[float | None, ...] = VAD, **columns: Any) -> dict[str, object]:
    """A labelled row on the scale 1..7."""
    row: dict[str, Any] = empty_row() | {"utterance_id": name, "corpus": "calls", "audio_uri": f"/audio/{name}.wav"}
    for dimension, raw in zip(DIMENSIONS, vad, strict=True):
        if raw is not None:
            row |= {dimension: (raw - 1) / 6, f"{dimension}_raw": raw, **SCALE}
    return row | columns


def corpus() -> pa.Table:
    """Clips of one recording each: with and without speakers, classes, votes, words; one without a label."""
    votes = [{"emotion": "anger", "votes": 2.0}, {"emotion": "joy", "votes": 1.0}]
    words = [
        {"word": "oh", "start_s": 0.25, "end_s": 0.5, "emphasised": True},
        {"word": "no", "start_s": 0.5, "end_s": 1.0, "emphasised": False},
    ]
    facts = {"speaker_id": "s1", "gender": "female", "language": "en", "transcript": "oh no & <more>"}
    return utterances_table(
        [
            utterance("a", split="train", fold=0, emotion="anger", emotion_votes=votes, words=words, **facts),
            utterance("b/ü 1#2%", (1.0, 7.0, 3.1), split="dev", emotion="joy", speaker_id="s2", turn=3),
            utterance("c", (5.5, None, 1.3), split="test2", dialogue_id="d1"),
            utterance("d", (None, None, None), split="train", speaker_id="s1"),
        ]
    )


def score(name: str, vad: tuple[float, ...] = VAD, **columns: Any) -> dict[str, Any]:
    """A row of a table of scores, on the scale 1..7, every interval .1 to either side in [0, 1]."""
    row: dict[str, Any] = {"utterance_id": name, "audio_uri": f"/audio/{name}.wav", "error": None, "scale": [1.0, 7.0]}
    for dimension, raw in zip(DIMENSIONS, vad, strict=True):
        value = (raw - 1) / 6
        numbers = (value, value - 0.1, value + 0.1, raw, raw - 0.6, raw + 0.6)
        row |= {
            dimension if part == "value" else f"{dimension}_{part}": x for part, x in zip(PARTS, numbers, strict=True)
        }
    return row | {"model": "emoray", "model_version": "3", "interval_level": 0.9, "level": "audio", **columns}


def failed(name: str) -> dict[str, Any]:
    """A row of a clip that could not be scored."""
    error = {"type": "missing_file", "message": "no such file", "attempts": 1}
    return {"utterance_id": name, "audio_uri": f"/audio/{name}.wav", "error": error}


def scores(*rows: dict[str, Any]) -> pa.Table:
    """A table of scores as `emoray score --table` leaves it."""
    estimates = [
        (dimension if part == "value" else f"{dimension}_{part}", pa.float64())
        for dimension in DIMENSIONS
        for part in PARTS
    ]
    point = pa.struct([(name, pa.float64()) for name in ("start_s", "end_s", *DIMENSIONS)])
    schema = pa.schema(
        [
            ("utterance_id", pa.string()),
            ("audio_uri", pa.string()),
            ("error", ERROR),
            *estimates,
            ("scale", pa.list_(pa.float64())),
            ("interval_level", pa.float64()),
            ("level", pa.string()),
            ("condition", pa.string()),
            ("transcript_source", pa.string()),
            ("speaker_clips", pa.int32()),
            ("used", pa.list_(pa.string())),
            ("absent", pa.struct([(name, pa.string()) for name in GRANULARITIES])),
            ("gates", pa.struct([(name, pa.float64()) for name in GRANULARITIES])),
            ("emphasised", pa.list_(pa.string())),
            ("transcript", pa.string()),
            ("emotion", pa.list_(pa.struct([("emotion", pa.string()), ("probability", pa.float64())]))),
            ("time_course", pa.list_(point)),
            ("duration_s", pa.float64()),
            ("model", pa.string()),
            ("model_version", pa.string()),
        ]
    )
    return pa.Table.from_pylist(list(rows), schema)


def course(*valences: float, start_s: float = 0.0) -> list[dict[str, float]]:
    """A time course in windows of 4 s every second; arousal and dominance go the other way and stand still."""
    return [
        {"start_s": start_s + k, "end_s": start_s + k + 4, "valence": v, "arousal": 1 - v, "dominance": 0.5}
        for k, v in enumerate(valences)
    ]


def labels_of(*tables: pa.Table) -> tuple[list[Label], ExportStats]:
    """All labels, and the count of the rows."""
    tally = ExportStats()
    return list(labels(tables, tally)), tally
