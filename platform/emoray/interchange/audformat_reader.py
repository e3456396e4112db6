"""Read audformat databases: those of emoray, and others whose columns or schemes have the field's names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from emoray.errors import InputError
from emoray.interchange import addresses
from emoray.interchange.audformat_database import COLUMNS, NAME, library
from emoray.schema import DIMENSIONS, empty_row, utterances_table

if TYPE_CHECKING:
    import pandas as pd

#: Column or scheme → column of the utterances table.
MEANINGS = {
    **{target: source for source, (target, _) in COLUMNS.items()},
    **{name: name for name in DIMENSIONS},
    "emotion": "emotion",
    "transcript": "transcript",
    "text": "transcript",
    "activation": "arousal",
}
#: pandas' types of columns other than text.
TYPES = {**dict.fromkeys(DIMENSIONS, "Float64"), "fold": "Int64", "turn": "Int64"}
#: A table with this column is about words, not clips.
WORD = "word"
SPLIT = re.compile(r"train|dev|gate|test\d*")


def read(folder: str, corpus: str) -> pa.Table:
    """A database's utterances: every file or segment in a table with a known column. Names are relative to `folder`.

    A column is known by its own name, otherwise by its scheme's. The scheme's ends are the scale of a dimension. A
    split is known by its name (train, dev, gate, test…), otherwise by its type.

    Raises:
        InputError: It is not a database, has no known column, or has contradicting values of one file.
        SchemaError: The table breaks its contract.
        MissingExtraError: audformat is not installed.
    """
    audformat = library()
    try:
        database = audformat.Database.load(folder, name=NAME)
    except Exception as error:
        raise InputError(
            f"not an audformat database ({error})",
            where=folder,
            remedy="Name the folder of a db.yaml",
            kind="damaged_file",
        ) from None
    scales: dict[str, tuple[float, float]] = {}
    frames: dict[bool, list[pd.DataFrame]] = {False: [], True: []}
    for table_id, table in database.tables.items():
        frame = None if WORD in table.columns else _known(database, table_id, scales)
        if frame is not None:
            frames[table.is_segmented].append(frame)
    if not any(frames.values()):
        known = ", ".join(sorted(MEANINGS))
        remedy = "Rename the columns or schemes"
        raise InputError(f"no known column ({known})", where=folder, remedy=remedy, kind="missing_column")
    try:
        joined = [audformat.utils.concat(frames[segmented]) for segmented in (False, True)]
    except ValueError as error:
        what = f"its tables contradict each other ({str(error).splitlines()[0]})"
        raise InputError(what, where=folder, remedy="Drop one of them", kind="contradiction") from None
    of_files, of_segments = (one.to_frame() if one.ndim == 1 else one for one in joined)
    records = _records(of_files, of_segments)
    return utterances_table([_row(*record, folder, corpus, scales) for record in records])


def _known(database: Any, table_id: str, scales: dict[str, tuple[float, float]]) -> pd.DataFrame | None:
    """The known columns of a table, by the utterances table's names; adds the scales of its dimensions to `scales`."""
    table = database.tables[table_id]
    where = f"{database.root}, table {table_id}"
    wanted: dict[str, str] = {}
    for name, column in table.columns.items():
        meaning = MEANINGS.get(name) or MEANINGS.get(column.scheme_id)
        if meaning is None or meaning in wanted.values():
            continue
        wanted[name] = meaning
        if meaning in DIMENSIONS:
            scheme = database.schemes.get(column.scheme_id)
            low, high = (None, None) if scheme is None else (scheme.minimum, scheme.maximum)
            if low is None or high is None or not low < high:
                remedy = "Give its scheme a minimum and a maximum"
                raise InputError(f"column {name!r} has no scale", where=where, remedy=remedy, kind="missing_scale")
            if scales.setdefault(meaning, (low, high)) != (low, high):
                raise InputError(f"{meaning} is on several scales", where=where, remedy="Convert it to one")
    frame = table.df[list(wanted)].rename(columns=wanted)
    if "split" in frame:
        frame["split"] = [name if _is_split(name) else None for name in frame["split"]]
    elif table.split_id is not None:
        split = table.split_id if _is_split(table.split_id) else table.split.type
        frame = frame.assign(split=split) if _is_split(split) else frame
    if not len(frame.columns):
        return None
    try:
        # Columns of one meaning join only if their types agree: categories and text do not.
        return frame.astype({name: TYPES.get(name, "string") for name in frame.columns})
    except (ValueError, TypeError) as error:
        what = f"a column has wrong values ({error})"
        raise InputError(what, where=where, remedy="Fix them", kind="bad_cell") from None


def _is_split(name: object) -> bool:
    return isinstance(name, str) and SPLIT.fullmatch(name) is not None


def _records(
    of_files: pd.DataFrame, of_segments: pd.DataFrame
) -> Iterator[tuple[str, float, float | None, dict[str, Any]]]:
    """File, start and end in seconds, and values; a segment inherits the values of its file."""
    whole = {file: _present(row) for file, row in zip(of_files.index, of_files.to_dict("records"), strict=True)}
    cut = set()
    for index, row in zip(of_segments.index, of_segments.to_dict("records"), strict=True):
        file, start, end = index
        cut.add(file)
        known = {name: value for name, value in whole.get(file, {}).items() if name != "utterance_id"}
        end_s = None if end is None or end != end else end.total_seconds()  # NaT is not equal to itself
        yield file, start.total_seconds(), end_s, known | _present(row)
    for file, row in whole.items():
        if file not in cut:
            yield file, 0.0, None, row


def _present(row: dict[str, Any]) -> dict[str, Any]:
    import pandas as pd

    return {name: value for name, value in row.items() if not pd.isna(value)}


def _row(
    file: str,
    start_s: float,
    end_s: float | None,
    known: dict[str, Any],
    folder: str,
    corpus: str,
    scales: dict[str, tuple[float, float]],
) -> dict[str, Any]:
    row: dict[str, Any] = empty_row() | {"corpus": corpus, "audio_uri": addresses.resolve(file, folder)} | known
    whole = start_s == 0 and end_s is None
    row |= {"start_s": None if whole else start_s, "end_s": end_s}
    if row["utterance_id"] is None:
        stem = os.path.splitext(file)[0]
        row["utterance_id"] = stem if whole else f"{stem}#{start_s:.3f}-" + ("" if end_s is None else f"{end_s:.3f}")
    ends = {scales[name] for name in DIMENSIONS if row[name] is not None}
    for name in DIMENSIONS:
        if row[name] is None:
            continue
        low, high = scales[name]
        if not low <= row[name] <= high:
            raise InputError(
                f"{name} {row[name]:g} is outside its scheme's {low:g}..{high:g}",
                where=f"{folder}, {row['utterance_id']}",
                remedy="Fix the scheme or the value",
            )
        raw = row[name]
        row[name] = (raw - low) / (high - low)
        if len(ends) == 1:  # a row of the utterances table has one scale
            row |= {f"{name}_raw": raw, "scale_min": low, "scale_max": high}
    return row
