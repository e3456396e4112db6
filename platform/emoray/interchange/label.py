"""What the formats contain of a clip: the labels of a corpus, or the scores of a model."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from emoray.errors import InputError
from emoray.schema import DIMENSIONS, empty_row, utterances_table

#: How far times of a time course may be from even steps.
TIME_TOLERANCE_S = 1e-6
#: Columns that are read from a table of scores.
SCORE_COLUMNS = (
    *("utterance_id", "audio_uri", "error", "scale", "emotion", "time_course", "model", "model_version"),
    *(f"{name}{end}" for name in DIMENSIONS for end in ("", "_low", "_high", "_corpus")),
)
#: Reasons for leaving a row out.
NO_LABEL, OUTSIDE = "no label", "a value outside [0, 1]"


@dataclass(frozen=True)
class Course:
    """The dimensions over time, in windows at even steps; the first starts `start_s` after the clip's beginning.

    `values`: dimension → its value in [0, 1] per window.
    """

    start_s: float
    hop_s: float
    window_s: float
    values: Mapping[str, tuple[float, ...]]

    @property
    def end_s(self) -> float:
        """End of the last window."""
        return self.start_s + self.hop_s * (len(next(iter(self.values.values()))) - 1) + self.window_s


@dataclass(frozen=True)
class Label:
    """One clip's emotion.

    Attributes:
        audio_uri: Its audio; None if a file names none.
        start_s, end_s: The clip within that audio; None for the audio's beginning and end.
        values: Dimension → value in [0, 1], of the known dimensions.
        raw: The same in units of the corpus's scale, if there is one.
        scale: Ends of that scale.
        intervals: Dimension → interval in [0, 1], if the model gave one.
        classes: Class → its probability; None for the class that people agreed on.
    """

    utterance_id: str
    audio_uri: str | None
    start_s: float | None = None
    end_s: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    raw: Mapping[str, float] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    classes: Mapping[str, float | None] = field(default_factory=dict)
    course: Course | None = None


@dataclass
class ExportStats:
    """Counts of an export: rows = written + all that are left out (by reason); `notes` is for the user."""

    rows: int = 0
    written: int = 0
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)
    notes: list[str] = field(default_factory=list)


def labels(tables: Iterable[pa.Table], stats: ExportStats) -> Iterator[Label]:
    """The labelled rows of utterances tables, or of tables of scores (parts of one table).

    `stats` counts the rows, and those that are left out: without a label, not scored, or with a value outside [0, 1].

    Raises:
        InputError: A time course at uneven steps.
    """
    for table in tables:
        scores = "model_version" in table.column_names  # and not a corpus's utterances
        for batch in table.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                stats.rows += 1
                if scores and row.get("error") is not None:
                    stats.left_out[f"not scored: {row['error']['type']}"] += 1
                    continue
                label = _of_score(row) if scores else _of_utterance(row)
                if label is None or not _in_range(label):
                    stats.left_out[NO_LABEL if label is None else OUTSIDE] += 1
                else:
                    yield label


def utterances(found: Iterable[Label], corpus: str, where: str) -> pa.Table:
    """Labels from a file (`where`) as an utterances table, without splits and speakers, which the formats do not have.

    Of several classes the most probable one is taken.

    Raises:
        InputError: A label names no audio.
        SchemaError: The table breaks its contract.
    """
    rows: list[dict[str, Any]] = []
    for label in found:
        if not label.audio_uri:
            raise InputError(
                f"{label.utterance_id!r} names no audio",
                where=where,
                remedy="Give it a <reference> to its recording",
                kind="missing_audio",
            )
        row = empty_row() | {"utterance_id": label.utterance_id, "corpus": corpus, "audio_uri": label.audio_uri}
        row |= {"start_s": label.start_s, "end_s": label.end_s, **label.values}
        if label.scale is not None:
            low, high = label.scale
            row |= {"scale_min": low, "scale_max": high}
            raw = {name: low + value * (high - low) for name, value in label.values.items()} | dict(label.raw)
            row |= {f"{name}_raw": value for name, value in raw.items()}
        if label.classes:
            row["emotion"] = max(label.classes, key=lambda name: label.classes[name] or 0.0)
        rows.append(row)
    return utterances_table(rows)


def _of_utterance(row: Mapping[str, Any]) -> Label | None:
    values = {name: row[name] for name in DIMENSIONS if row[name] is not None}
    if not values and row["emotion"] is None:
        return None
    return Label(
        utterance_id=row["utterance_id"],
        audio_uri=row["audio_uri"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        values=values,
        raw={name: row[f"{name}_raw"] for name in values if row[f"{name}_raw"] is not None},
        scale=_scale(row["scale_min"], row["scale_max"]),
        classes={} if row["emotion"] is None else {row["emotion"]: None},
    )


def _of_score(row: Mapping[str, Any]) -> Label | None:
    values = {name: row[name] for name in DIMENSIONS if row[name] is not None}
    classes = {one["emotion"]: one["probability"] for one in row["emotion"] or ()}
    if not values and not classes:
        return None
    bounds = {name: (row[f"{name}_low"], row[f"{name}_high"]) for name in values}
    return Label(
        utterance_id=row["utterance_id"],
        audio_uri=row["audio_uri"],
        start_s=row.get("start_s"),
        end_s=row.get("end_s"),
        values=values,
        raw={name: row[f"{name}_corpus"] for name in values if row[f"{name}_corpus"] is not None},
        scale=_scale(*row["scale"]) if row["scale"] else None,
        intervals={name: pair for name, pair in bounds.items() if None not in pair},
        classes=classes,
        course=_course(row["time_course"], row["utterance_id"]),
    )


def _scale(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _course(points: list[Mapping[str, float]] | None, utterance_id: str) -> Course | None:
    """Evenly spaced windows; None for a single one, which adds nothing to the clip's values."""
    if points is None or len(points) < 2:
        return None
    start_s, hop_s = points[0]["start_s"], points[1]["start_s"] - points[0]["start_s"]
    window_s = points[0]["end_s"] - start_s
    for number, point in enumerate(points):
        expected_s = start_s + number * hop_s
        off_s = max(abs(point["start_s"] - expected_s), abs(point["end_s"] - expected_s - window_s))
        if hop_s <= 0 or off_s > TIME_TOLERANCE_S:
            raise InputError(
                f"its time course is not at even steps (window {number} is at {point['start_s']:g} s)",
                where=f"utterance {utterance_id}",
                remedy="Score it again",
                kind="uneven_time_course",
            )
    return Course(start_s, hop_s, window_s, {name: tuple(point[name] for point in points) for name in DIMENSIONS})


def _in_range(label: Label) -> bool:
    courses = [] if label.course is None else [value for one in label.course.values.values() for value in one]
    shares = [share for share in label.classes.values() if share is not None]
    numbers = [*label.values.values(), *courses, *shares]
    # A comparison with NaN is false.
    return all(0.0 <= number <= 1.0 for number in numbers)
