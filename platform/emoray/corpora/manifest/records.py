"""Turn records with columns of any name into rows of the utterances table: manifests, Hugging Face datasets."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from emoray.config import Section
from emoray.corpora.manifest.columns import column_map, vote_columns
from emoray.corpora.manifest.files import Record
from emoray.corpora.splits import SplitFractions, assign_splits
from emoray.errors import InputError
from emoray.schema import DIMENSIONS, SPLITS, UTTERANCES, empty_row

SPLIT_NAMES = {
    "training": "train", "development": "dev", "devel": "dev", "validation": "dev", "valid": "dev", "val": "dev",
    "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
TEXTS = ("speaker_id", "gender", "language", "emotion", "transcript", "dialogue_id")
NUMBERS = ("start_s", "end_s", "duration_s", *DIMENSIONS, "scale_min", "scale_max")
INTEGERS = ("fold", "turn")
NESTED = ("words", "emotion_votes")


class RecordsConfig(Section):
    """How records become utterances.

    Attributes:
        columns: Column of the utterances table → column of the source, where the usual names do not fit.
        vote_columns: Columns with a class's votes, or its share of them; EMO-SUPERB's are found automatically.
        scale_min, scale_max: Ends of the scale of the ratings of valence, arousal and dominance (5-point: 1 and 5);
            required with labels.
        language: Language of all utterances, where the source has no such column.
        split_fractions: Shares of the splits that are drawn if the source has none; no speaker is in two.
        seed: Of that draw.
    """

    columns: dict[str, str]
    vote_columns: tuple[str, ...]
    scale_min: float | None
    scale_max: float | None
    language: str | None
    split_fractions: SplitFractions
    seed: int


@dataclass(frozen=True)
class RecordSource:
    """Records, and where they come from.

    Attributes:
        path: Their file, for messages.
        key: Configuration section that names it, for messages: `corpus.manifest`.
        folder: What relative audio paths start from.
    """

    path: str
    key: str
    columns: Sequence[str]
    records: Sequence[Record]
    folder: str


def rows(name: str, source: RecordSource, config: RecordsConfig) -> list[dict[str, Any]]:
    """Rows of the utterances table.

    Raises:
        InputError: Names the file, the line and the column, and what to do.
    """
    votes = vote_columns(source.columns, config.vote_columns, source.key)
    named = [column for column in source.columns if column not in votes]
    mapped = column_map(named, config.columns, source.path, source.key)
    folder = source.folder if "://" in source.folder else os.path.abspath(source.folder)
    found: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    for record in source.records:
        row = _Reader(record, mapped | dict(zip(votes, votes, strict=True)), source, votes).row(name, folder, config)
        first = places.setdefault(row["utterance_id"], record.place)
        if first != record.place:
            raise InputError(
                f"utterance_id {row['utterance_id']!r} is already used at {first}",
                where=f"{source.path}, {record.place}",
                remedy="Ids must be unique: drop the repeat, or map another column to utterance_id",
                kind="duplicate_id",
            )
        found.append(row)
    if "split" not in mapped:
        assign_splits(found, config.split_fractions, config.seed, f"{source.key}.split_fractions")
    return found


class _Reader:
    """Typed access to one record; every error names file, line, column and value."""

    def __init__(
        self, record: Record, column_map: Mapping[str, str], source: RecordSource, vote_columns: Sequence[str]
    ) -> None:
        self.record = record
        self.column_map = column_map
        self.vote_columns = vote_columns
        self.key = source.key
        self.where = f"{source.path}, {record.place}"

    def row(self, name: str, folder: str, config: RecordsConfig) -> dict[str, Any]:
        """The record as a row of the utterances table."""
        audio = self.text("audio_uri")
        if audio is None:
            raise self.error(f"no audio file in column {self.column_map['audio_uri']!r}", "Fill it in", "empty_cell")
        row: dict[str, Any] = empty_row() | {"corpus": name, "audio_uri": _resolve(audio, folder)}
        row |= {column: self.text(column) for column in TEXTS}
        row |= {column: self.number(column) for column in NUMBERS}
        row |= {column: self.integer(column) for column in INTEGERS}
        row |= {column: self.nested(column) for column in NESTED}
        row["language"] = row["language"] or config.language
        row["split"] = self.split()
        if self.vote_columns:
            row["emotion_votes"], most = self.votes()
            row["emotion"] = row["emotion"] or most
        if self.column_map.get("start_s") == "offset" and None not in (row["start_s"], row["duration_s"]):
            row["end_s"] = row["start_s"] + row["duration_s"]  # NeMo: offset and duration
        self.check_span(row)
        row["utterance_id"] = self.text("utterance_id") or self.record.default_id or _default_id(audio, row)
        self.normalise(row, config)
        return row

    def value(self, column: str) -> Any:
        source = self.column_map.get(column)
        return None if source is None else self.record.values.get(source)

    def votes(self) -> tuple[list[dict[str, Any]] | None, str | None]:
        """The votes of all classes, and the class with the most votes; None if several have the most."""
        shares: dict[str, float] = {}
        for column in self.vote_columns:
            if share := self.number(column):
                shares[column] = share
        best = [column for column, share in shares.items() if share == max(shares.values())]
        found = [{"emotion": column, "votes": share} for column, share in shares.items()]
        return found or None, best[0] if len(best) == 1 else None

    def text(self, column: str) -> str | None:
        value = self.value(column)
        if isinstance(value, list | dict):
            raise self.refusal(column, value, "text")
        return None if value is None else str(value).strip() or None

    def number(self, column: str) -> float | None:
        value = self.value(column)
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise self.refusal(column, value, "a number (with a point, not a comma)") from None
        if math.isnan(number):
            return None
        if math.isinf(number) or isinstance(value, bool):
            raise self.refusal(column, value, "a finite number")
        return number

    def integer(self, column: str) -> int | None:
        number = self.number(column)
        if number is not None and (number != int(number) or abs(number) >= 2**31):
            raise self.refusal(column, self.value(column), "a whole number")
        return None if number is None else int(number)

    def nested(self, column: str) -> list[dict[str, Any]] | None:
        value = self.value(column)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (json.JSONDecodeError, RecursionError):
                raise self.refusal(column, value, "a JSON list") from None
        if column == "emotion_votes" and isinstance(value, dict):
            value = [{"emotion": emotion, "votes": votes} for emotion, votes in value.items()]
        if value is None:
            return None
        item_type = UTTERANCES.field(column).type
        fields = {item_type.value_type.field(index).name for index in range(item_type.value_type.num_fields)}
        if not isinstance(value, list) or not all(isinstance(item, dict) and set(item) <= fields for item in value):
            raise self.refusal(column, value, f"a list of objects with {', '.join(sorted(fields))}")
        try:
            pa.array([value], item_type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            raise self.refusal(column, value, f"a list of objects of type {item_type.value_type}") from None
        return value

    def split(self) -> str | None:
        given = self.text("split")
        if given is None:
            return None
        split = SPLIT_NAMES.get(given.lower(), given.lower())
        if split not in SPLITS and not (split.startswith("test") and split[4:].isdecimal() and split.isascii()):
            raise self.refusal("split", given, f"one of {', '.join(SPLITS)}, test1, test2 …")
        return split

    def check_span(self, row: Mapping[str, Any]) -> None:
        start_s, end_s = row["start_s"] or 0.0, row["end_s"]
        if start_s < 0:
            raise self.refusal("start_s", row["start_s"], "a time in seconds, 0 or later")
        if end_s is not None and end_s <= start_s:
            raise self.error(f"end_s {end_s:g} is not after start_s {start_s:g}", "Fix the times", "bad_span")

    def normalise(self, row: dict[str, Any], config: RecordsConfig) -> None:
        """Scale labels to [0, 1], keep the raw ones."""
        labelled = [dimension for dimension in DIMENSIONS if row[dimension] is not None]
        if not labelled:
            return
        low = row["scale_min"] if row["scale_min"] is not None else config.scale_min
        high = row["scale_max"] if row["scale_max"] is not None else config.scale_max
        if low is None or high is None:
            remedy = f"Set {self.key}.scale_min and {self.key}.scale_max (1 and 5, for example)"
            raise self.error(f"{labelled[0]} is given, but not the scale of its ratings", remedy, "missing_scale")
        if not low < high:
            raise self.error(f"scale {low:g}..{high:g} is empty", "scale_min must be below scale_max", "bad_scale")
        row["scale_min"], row["scale_max"] = low, high
        for dimension in labelled:
            raw = row[dimension]
            if not low <= raw <= high:
                what = f"{dimension} {raw:g} is outside the scale {low:g}..{high:g}"
                remedy = f"Set {self.key}.scale_min and scale_max to the scale that the labels were given on"
                raise self.error(what, remedy, "label_off_scale")
            row[f"{dimension}_raw"] = raw
            # Subnormal scales can round to just above 1.
            row[dimension] = min(max((raw - low) / (high - low), 0.0), 1.0)

    def refusal(self, column: str, value: Any, expected: str) -> InputError:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "…"
        what = f"column {self.column_map[column]!r} holds {shown}, expected {expected}"
        return self.error(what, "Fix the value", "bad_cell")

    def error(self, what: str, remedy: str, kind: str) -> InputError:
        """An error about this record."""
        return InputError(what, where=self.where, remedy=remedy, kind=kind)


def _resolve(audio: str, folder: str) -> str:
    if "://" in audio or os.path.isabs(audio):
        return audio
    if audio.startswith("~"):
        return os.path.expanduser(audio)
    return f"{folder}/{audio}" if "://" in folder else os.path.normpath(os.path.join(folder, audio))


def _default_id(audio: str, row: Mapping[str, Any]) -> str:
    stem, dot, ending = audio.rpartition(".")
    base = stem if dot and "/" not in ending else audio
    if row["start_s"] is None and row["end_s"] is None:
        return base
    end = "" if row["end_s"] is None else f"{row['end_s']:.3f}"
    return f"{base}#{row['start_s'] or 0:.3f}-{end}"
