"""Your own recordings: a folder of audio, or a csv, jsonl or parquet manifest with a column map.

Relative audio paths are taken from the manifest's folder. NeMo-style manifests (`audio_filepath`, `duration`, `text`,
`offset`) work as they are. Whether the audio files exist is not looked at here: a clip that cannot be opened is
quarantined by the decode stage.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from emoray.config import Section
from emoray.corpora.manifest_file import Record, read_records
from emoray.corpora.segment import SegmentConfig
from emoray.errors import InputError
from emoray.schema import DIMENSIONS, SPLITS, UNKNOWN_SPEAKER, UTTERANCES, empty_row, utterances_table

log = logging.getLogger(__name__)

#: Where a column is looked for when the column map does not say, besides under its own name. First match wins.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "utterance_id": ("id", "utt_id", "segment_id"),
    "audio_uri": ("audio_filepath", "audio", "audio_path", "path", "file", "filename", "file_name", "FileName", "wav"),
    "duration_s": ("duration",),
    "start_s": ("offset", "start"),
    "end_s": ("end",),
    "speaker_id": ("speaker", "spk", "spk_id", "SpkrID"),
    "gender": ("Gender", "sex"),
    "language": ("lang", "source_lang"),
    "split": ("Split_Set", "partition", "subset"),
    "valence": ("EmoVal", "val"),
    "arousal": ("EmoAct", "act", "activation"),
    "dominance": ("EmoDom", "dom"),
    "emotion": ("EmoClass", "emo", "label"),
    "transcript": ("text", "transcription", "sentence"),
}
SPLIT_NAMES = {
    "training": "train", "development": "dev", "devel": "dev", "validation": "dev", "valid": "dev", "val": "dev",
    "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
#: Columns that are worked out, never read.
DERIVED = ("corpus", "valence_raw", "arousal_raw", "dominance_raw")
TEXTS = ("speaker_id", "gender", "language", "emotion", "transcript", "dialogue_id")
NUMBERS = ("start_s", "end_s", "duration_s", *DIMENSIONS, "scale_min", "scale_max")
INTEGERS = ("fold", "turn")
NESTED = ("words", "emotion_votes")
READABLE = tuple(name for name in UTTERANCES.names if name not in DERIVED)


class SplitFractions(Section):
    """Share of the utterances that each split should get."""

    train: float
    dev: float
    gate: float
    test: float


class ManifestConfig(Section):
    """A manifest.

    Attributes:
        path: Folder of audio, or a csv, tsv, jsonl or parquet file; local or an fsspec address.
        columns: Column of the utterances table → column of the manifest, where the usual names do not fit.
        scale_min, scale_max: Ends of the scale that valence, arousal and dominance were rated on (5-point: 1 and 5);
            needed with labels.
        language: Language of all utterances, where the manifest has no such column.
        split_fractions: Shares of the splits that are drawn when the manifest has none; no speaker lands in two.
        seed: Of that draw.
        segment: Whether its rows are utterances, or recordings to be cut into some.
    """

    path: str | None
    columns: dict[str, str]
    scale_min: float | None
    scale_max: float | None
    language: str | None
    split_fractions: SplitFractions
    seed: int
    segment: SegmentConfig


def read(name: str, config: ManifestConfig) -> pa.Table:
    """Read a manifest into an utterances table.

    Raises:
        InputError: Names the file, the line and the column, and what to do.
        SchemaError: The table breaks its contract.
    """
    if not config.path:
        raise InputError(
            "no manifest is configured",
            where="corpus.manifest.path",
            remedy="Set it to a folder, csv, jsonl or parquet file",
        )
    path = os.path.expanduser(config.path)
    columns, records, folder = read_records(path)
    column_map = _column_map(columns, config.columns, path)
    if "://" not in folder:
        folder = os.path.abspath(folder)
    rows: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    for record in records:
        row = _Reader(record, column_map, path).row(name, folder, config)
        first = places.setdefault(row["utterance_id"], record.place)
        if first != record.place:
            raise InputError(
                f"utterance_id {row['utterance_id']!r} was already given at {first}",
                where=f"{path}, {record.place}",
                remedy="Ids must be unique: drop the repeat or map another column onto utterance_id",
            )
        rows.append(row)
    if "split" not in column_map:
        _draw_splits(rows, config)
    return utterances_table(rows)


def _column_map(columns: list[str], given: Mapping[str, str], path: str) -> dict[str, str]:
    """Column of the utterances table → column of the manifest."""
    for target, source in given.items():
        if target not in READABLE:
            raise InputError(
                f"the utterances table has no column {target!r} to map onto",
                where="corpus.manifest.columns",
                remedy=_nearest(target, READABLE),
            )
        if source not in columns:
            raise InputError(
                f"no column {source!r} (mapped onto {target})", where=path, remedy=_nearest(source, columns)
            )
    mapped = dict(given)
    for target in READABLE:
        candidates = (target, *USUAL_NAMES.get(target, ()))
        found = next((column for column in candidates if column in columns and column not in given.values()), None)
        if target not in mapped and found is not None:
            mapped[target] = found
    if "audio_uri" not in mapped:
        raise InputError(
            f"no column with the audio files (there are {', '.join(columns)})",
            where=path,
            remedy="Map it: corpus.manifest.columns.audio_uri=YOUR_COLUMN",
        )
    unused = [column for column in columns if column not in mapped.values()]
    for column in unused:
        near = difflib.get_close_matches(
            column.lower(), [name for name in READABLE if name not in mapped], n=1, cutoff=0.85
        )
        if near:
            raise InputError(
                f"column {column!r} is unknown; is it {near[0]}?",
                where=path,
                remedy=f"Rename it, or map it: corpus.manifest.columns.{near[0]}={column}",
            )
    if unused:
        log.info("columns not used: %s", ", ".join(unused))
    return mapped


def _nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}"


class _Reader:
    """Typed access to one record; every refusal names file, line, column and value."""

    def __init__(self, record: Record, column_map: Mapping[str, str], path: str) -> None:
        self.record = record
        self.column_map = column_map
        self.where = f"{path}, {record.place}"

    def row(self, name: str, folder: str, config: ManifestConfig) -> dict[str, Any]:
        """The record as a row of the utterances table."""
        audio = self.text("audio_uri")
        if audio is None:
            raise InputError(
                f"no audio file in column {self.column_map['audio_uri']!r}", where=self.where, remedy="Fill it in"
            )
        row: dict[str, Any] = empty_row() | {"corpus": name, "audio_uri": _resolve(audio, folder)}
        row |= {column: self.text(column) for column in TEXTS}
        row |= {column: self.number(column) for column in NUMBERS}
        row |= {column: self.integer(column) for column in INTEGERS}
        row |= {column: self.nested(column) for column in NESTED}
        row["language"] = row["language"] or config.language
        row["split"] = self.split()
        if self.column_map.get("start_s") == "offset" and None not in (row["start_s"], row["duration_s"]):
            row["end_s"] = row["start_s"] + row["duration_s"]  # NeMo: offset and duration
        self.check_span(row)
        row["utterance_id"] = self.text("utterance_id") or _default_id(audio, row)
        self.normalise(row, config)
        return row

    def value(self, column: str) -> Any:
        source = self.column_map.get(column)
        return None if source is None else self.record.values.get(source)

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
            raise InputError(
                f"end_s {end_s:g} is not after start_s {start_s:g}", where=self.where, remedy="Mend the times"
            )

    def normalise(self, row: dict[str, Any], config: ManifestConfig) -> None:
        """Put labels on [0, 1], keep the raw ones."""
        labelled = [dimension for dimension in DIMENSIONS if row[dimension] is not None]
        if not labelled:
            return
        low = row["scale_min"] if row["scale_min"] is not None else config.scale_min
        high = row["scale_max"] if row["scale_max"] is not None else config.scale_max
        if low is None or high is None:
            raise InputError(
                f"{labelled[0]} is given, but not the scale it was rated on",
                where=self.where,
                remedy="Set corpus.manifest.scale_min and corpus.manifest.scale_max (1 and 5, for example)",
            )
        if not low < high:
            raise InputError(
                f"scale {low:g}..{high:g} is empty", where=self.where, remedy="scale_min must be below scale_max"
            )
        row["scale_min"], row["scale_max"] = low, high
        for dimension in labelled:
            raw = row[dimension]
            if not low <= raw <= high:
                raise InputError(
                    f"{dimension} {raw:g} lies outside the scale {low:g}..{high:g}",
                    where=self.where,
                    remedy="Set corpus.manifest.scale_min and scale_max to the scale that the labels were given on",
                )
            row[f"{dimension}_raw"] = raw
            # Subnormal scales can round to just above 1.
            row[dimension] = min(max((raw - low) / (high - low), 0.0), 1.0)

    def refusal(self, column: str, value: Any, expected: str) -> InputError:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "…"
        return InputError(
            f"column {self.column_map[column]!r} holds {shown}, expected {expected}",
            where=self.where,
            remedy="Mend the value",
        )


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


def _draw_splits(rows: list[dict[str, Any]], config: ManifestConfig) -> None:
    """Deal whole speakers out to the splits; utterances whose speaker is unknown go to train."""
    fractions = {name: share for name, share in config.split_fractions.model_dump().items() if share > 0}
    if not fractions:
        raise InputError("all shares are 0", where="corpus.manifest.split_fractions", remedy="Give train a share")
    clips = Counter(row["speaker_id"] for row in rows if row["speaker_id"] not in (None, UNKNOWN_SPEAKER))
    speakers = sorted(clips)
    np.random.default_rng(config.seed).shuffle(speakers)
    total = sum(fractions.values())
    missing = {name: share / total * clips.total() for name, share in fractions.items()}
    # Every split gets a speaker before any gets a second, as far as they reach; train, then test, matter most.
    queue = [name for name in ("train", "test", "dev", "gate") if name in fractions]
    split_of: dict[str, str] = {}
    for speaker in speakers:
        split = queue.pop(0) if queue else max(missing, key=missing.__getitem__)
        split_of[speaker] = split
        missing[split] -= clips[speaker]
    for row in rows:
        row["split"] = split_of.get(row["speaker_id"], "train")
