"""Reading a manifest's records (csv, tsv, jsonl, parquet or a folder), each with its place for error messages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from emoray.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Record:
    """One line of a manifest.

    Attributes:
        place: Where it stands: `line 12`, or `row 12` of a Parquet file.
        values: Column → value, as the file has it; absent and empty ones are left out.
    """

    place: str
    values: dict[str, Any]


def read_records(path: str) -> tuple[list[str], list[Record], str]:
    """Read a manifest, or list a folder of audio.

    Returns:
        Columns in the file's order, the records, and the folder that relative paths start from.

    Raises:
        InputError: It is missing, of an unknown kind, or damaged (with the line).
    """
    system, inner = fsspec.core.url_to_fs(path)
    if system.isdir(inner):
        return ["audio_uri"], _list_folder(system, inner, path), path.rstrip("/")
    if not system.exists(inner):
        raise InputError(
            "no such manifest", where=path, remedy="Set corpus.manifest.path to a folder, csv, jsonl or parquet file"
        )
    suffix = inner[inner.rfind(".") :].lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise InputError(
            f"a manifest cannot be a {suffix or 'file without an ending'}",
            where=path,
            remedy=f"Use a folder of audio or one of {', '.join(MANIFEST_SUFFIXES)}",
        )
    content = bytes(system.cat_file(inner))
    folder = path.rpartition("/")[0]
    if suffix == ".parquet":
        return *_read_parquet(content, path), folder
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError("not UTF-8", where=f"{path}, line {line}", remedy="Save it as UTF-8") from None
    if suffix in (".csv", ".tsv"):
        records = list(_read_csv(text, path, "\t" if suffix == ".tsv" else None))
    else:
        records = list(_read_jsonl(text, path))
    if not records:
        raise InputError("the manifest has no rows", where=path, remedy="Check that the right file is given")
    return list(dict.fromkeys(column for record in records for column in record.values)), records, folder


def _list_folder(system: Any, inner: str, path: str) -> list[Record]:
    root = inner.rstrip("/")
    files = sorted(name for name in system.find(root) if name.lower().endswith(AUDIO_SUFFIXES))
    if not files:
        raise InputError(
            f"no audio in this folder (looked for {', '.join(AUDIO_SUFFIXES)})", where=path, remedy="Check the path"
        )
    return [Record(name[len(root) + 1 :], {"audio_uri": name[len(root) + 1 :]}) for name in files]


def _read_csv(text: str, path: str, delimiter: str | None) -> Iterator[Record]:
    header_line = text.split("\n", 1)[0]
    if delimiter is None:
        delimiter = ";" if ";" in header_line and "," not in header_line else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise InputError(f"column {twice[0]!r} occurs twice", where=f"{path}, line 1", remedy="Rename or drop one")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{len(cells)} cells, the header has {len(header)}",
                    where=f"{path}, line {reader.line_num}",
                    remedy="Put quotes around cells that contain the delimiter",
                )
            yield Record(f"line {reader.line_num}", {k: v for k, v in zip(header, cells, strict=True) if v.strip()})
    except csv.Error as error:
        raise InputError(
            f"damaged csv ({error})", where=f"{path}, line {reader.line_num}", remedy="Mend the quotes"
        ) from None


def _read_jsonl(text: str, path: str) -> Iterator[Record]:
    # Not str.splitlines(): that also splits at characters that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"not JSON ({error})", where=f"{path}, line {number}", remedy="Write one JSON object per line"
            ) from None
        if not isinstance(values, dict):
            raise InputError(
                f"{type(values).__name__} instead of an object",
                where=f"{path}, line {number}",
                remedy="Write one JSON object per line",
            )
        yield Record(f"line {number}", {key: value for key, value in values.items() if value not in (None, "")})


def _read_parquet(content: bytes, path: str) -> tuple[list[str], list[Record]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"not a Parquet file ({error})", where=path, remedy="Write it again") from None
    rows = table.to_pylist()
    if not rows:
        raise InputError("the manifest has no rows", where=path, remedy="Check that the right file is given")
    return table.schema.names, [
        Record(f"row {number}", {key: value for key, value in row.items() if value not in (None, "")})
        for number, row in enumerate(rows)
    ]
