"""Read a manifest's records, each with its place for error messages.

csv, tsv, jsonl (also lhotse's cuts and EmoBox's folds), parquet, or a folder of audio.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from emoray.corpora.manifest import lhotse
from emoray.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet")
#: A file of a fold of EmoBox: `iemocap_train_fold_1.jsonl`.
EMOBOX_FOLD = re.compile(r".+_(?P<split>train|valid|dev|test)_fold_?(?P<fold>[1-9]\d*)\.jsonl")
#: EmoBox's names, if a record has them all; alone, `key` and `length` may mean anything.
EMOBOX_NAMES = {"key": "utterance_id", "wav": "audio_uri", "length": "duration_s"}


@dataclass(frozen=True)
class Record:
    """One record of a manifest.

    Attributes:
        place: Its place in the file: `line 12`, or `row 12` of a Parquet file.
        values: Column → value as in the file, without absent and empty ones.
        default_id: Its utterance_id where no column has one; None: its audio file's name.
    """

    place: str
    values: dict[str, Any]
    default_id: str | None = None


def read_records(path: str) -> tuple[list[str], list[Record], str]:
    """Read a manifest, or list a folder of audio.

    Returns:
        Columns in the file's order, the records, and the folder that relative paths start from.

    Raises:
        InputError: It is missing, has an unknown format, or is damaged (with the line).
    """
    system, inner = fsspec.core.url_to_fs(path)
    if system.isdir(inner):
        folds = sorted(
            name for name in system.ls(inner, detail=False) if EMOBOX_FOLD.fullmatch(name.rsplit("/", 1)[-1])
        )
        if folds:
            records = [record for name in folds for record in _read_fold(bytes(system.cat_file(name)), name)]
            return _columns(records), records, path.rstrip("/")
        return ["audio_uri"], _list_folder(system, inner, path), path.rstrip("/")
    if not system.exists(inner):
        raise InputError(
            "no such manifest",
            where=path,
            remedy="Set corpus.manifest.path to a folder, csv, jsonl or parquet file",
            kind="missing_file",
        )
    plain = inner.removesuffix(".gz")
    suffix = plain[plain.rfind(".") :].lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise InputError(
            f"a manifest cannot be a {suffix or 'file without a suffix'}",
            where=path,
            remedy=f"Use a folder of audio or one of {', '.join(MANIFEST_SUFFIXES)} (or .gz of it)",
            kind="unknown_format",
        )
    content = bytes(system.cat_file(inner))
    folder = path.rpartition("/")[0]
    if inner.endswith(".gz"):
        content = _unzipped(content, path)
    header: list[str] = []
    if suffix == ".parquet":
        header, records = _read_parquet(content, path)
    elif suffix in (".csv", ".tsv"):
        header, records = _read_csv(_decoded(content, path), path, "\t" if suffix == ".tsv" else None)
    else:
        records = list(_read_jsonl(_decoded(content, path), path))
    if not records:
        raise InputError(
            "the manifest has no rows", where=path, remedy="Check that this is the right file", kind="empty_table"
        )
    there = _columns(records)
    return sorted(there, key=header.index) if header else there, records, folder


def _damaged(what: str, where: str, remedy: str) -> InputError:
    return InputError(what, where=where, remedy=remedy, kind="damaged_file")


def _columns(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(column for record in records for column in record.values))


def _unzipped(content: bytes, path: str) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(f"damaged gzip file ({error})", path, "Write it again") from None


def _decoded(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _damaged("not UTF-8", f"{path}, line {line}", "Save it as UTF-8") from None


def _read_fold(content: bytes, path: str) -> Iterator[Record]:
    """A file of an EmoBox fold; split and fold of its records are in its name."""
    name = path.rsplit("/", 1)[-1]
    match = EMOBOX_FOLD.fullmatch(name)
    assert match is not None
    place = {"split": match["split"], "fold": int(match["fold"]) - 1}
    for record in _read_jsonl(_decoded(content, path), path):
        yield Record(f"{name}, {record.place}", record.values | place)


def _list_folder(system: Any, inner: str, path: str) -> list[Record]:
    root = inner.rstrip("/")
    files = sorted(name for name in system.find(root) if name.lower().endswith(AUDIO_SUFFIXES))
    if not files:
        raise InputError(
            f"no audio in this folder (looked for {', '.join(AUDIO_SUFFIXES)})",
            where=path,
            remedy="Check the path",
            kind="missing_files",
        )
    return [Record(name[len(root) + 1 :], {"audio_uri": name[len(root) + 1 :]}) for name in files]


def _read_csv(text: str, path: str, delimiter: str | None) -> tuple[list[str], list[Record]]:
    header_line = text.split("\n", 1)[0]
    if delimiter is None:
        delimiter = ";" if ";" in header_line and "," not in header_line else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise InputError(
                f"column {twice[0]!r} occurs twice",
                where=f"{path}, line 1",
                remedy="Rename or drop one",
                kind="duplicate_column",
            )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                what = f"{len(cells)} cells, the header has {len(header)}"
                remedy = "Put quotes around cells that contain the delimiter"
                raise _damaged(what, f"{path}, line {reader.line_num}", remedy)
            values = {column: cell for column, cell in zip(header, cells, strict=True) if cell.strip()}
            records.append(Record(f"line {reader.line_num}", values))
    except csv.Error as error:
        raise _damaged(f"damaged csv ({error})", f"{path}, line {reader.line_num}", "Fix the quotes") from None
    return header, records


def _read_jsonl(text: str, path: str) -> Iterator[Record]:
    # Not str.splitlines(): it also splits at characters that a JSON string may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        damage = ""
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            values, damage = None, f"not JSON ({error})"
        if not isinstance(values, dict):
            damage = damage or f"{type(values).__name__} instead of an object"
            raise _damaged(damage, f"{path}, line {number}", "Write one JSON object per line")
        if lhotse.is_cut(values):
            yield from (Record(f"line {number}", cut) for cut in lhotse.utterances(values, f"{path}, line {number}"))
            continue
        given = {key: value for key, value in values.items() if value not in (None, "")}
        if given.keys() >= EMOBOX_NAMES.keys():
            given = {EMOBOX_NAMES.get(key, key): value for key, value in given.items()}
        yield Record(f"line {number}", given)


def _read_parquet(content: bytes, path: str) -> tuple[list[str], list[Record]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(f"not a Parquet file ({error})", path, "Write it again") from None
    return table.schema.names, [
        Record(f"row {number}", {key: value for key, value in row.items() if value not in (None, "")})
        for number, row in enumerate(table.to_pylist())
    ]
