"""Compaction: the many files of a stage table become few, with one row per id, while others read and write the table.

The file that completes a compaction carries the names of those that it replaces. From then on, readers leave those out.
A later compaction removes them: a reader that listed the files earlier may still open them, and listings are not
atomic. A killed compaction leaves rows twice, which readers handle, and never loses one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from emoray.lake.tables import MERGED, REPLACES, Lake

#: Rows are collected until they fill this much memory, then written as one file.
FILE_BYTES = 128 * 2**20
#: Files of at least this size are left alone if none of their rows is a repeat.
LARGE_BYTES = 16 * 2**20
#: Name of an unfinished file on a disk (emoray.lake.atomic).
UNFINISHED = re.compile(r"\..*\.tmp")


@dataclass(frozen=True)
class Compaction:
    """What was done to a stage table.

    Attributes:
        merged: Files that were replaced …
        into: … by so many.
        repeats: Rows that were left out because another row of the same id is kept.
        removed: Files, replaced by this or an earlier compaction, that were removed.
        waiting: Replaced files that stay until the grace period is over.
    """

    merged: int
    into: int
    repeats: int
    removed: int
    waiting: int


def compact_stage(lake: Lake, stage: str, fingerprint: str, *, grace_s: float) -> Compaction:
    """Rewrite a stage table as few files with one row per id. Remove files that were replaced at least `grace_s` ago.

    `grace_s` must be longer than any read of the table takes.
    """
    folder = ("annotations", stage, fingerprint)
    merged, into, repeats = lake.retry_if_files_vanish(lambda: _merge(lake, folder), *folder)
    waiting = lake.retry_if_files_vanish(lambda: _waiting(lake, folder), *folder)
    due = [path for path, age_s in waiting.items() if age_s >= grace_s]
    for path in due:
        with contextlib.suppress(FileNotFoundError):
            lake.fs.rm_file(path)
    return Compaction(merged, into, repeats, len(due), len(waiting) - len(due))


def sweep(lake: Lake, older_than_s: float) -> int:
    """Remove scratch folders and, on a disk, unfinished files untouched for `older_than_s`; returns how many."""
    before_s = time.time() - older_than_s
    swept = 0
    for name in lake.list_folders("work"):
        written_s = [lake.fs.modified(path).timestamp() for path in lake.fs.find(lake.path("work", name))]
        if max(written_s, default=0.0) < before_s:
            with contextlib.suppress(FileNotFoundError):
                lake.fs.rm(lake.path("work", name), recursive=True)
                swept += 1
    for folder, _, names in os.walk(lake.path("annotations")) if lake.is_local else ():
        for name in names:
            path = os.path.join(folder, name)
            if UNFINISHED.fullmatch(name) and os.stat(path).st_mtime < before_s:
                os.unlink(path)
                swept += 1
    return swept


def _waiting(lake: Lake, folder: tuple[str, ...]) -> dict[str, float]:
    """Files that are replaced but still there, and how many seconds ago they were replaced."""
    files = lake.list_files(*folder)
    replaced = lake.replaced(files)
    now_s = time.time()
    found = {path: replaced.get(path.rsplit("/", 1)[-1]) for path in files}
    return {path: now_s - lake.fs.modified(by).timestamp() for path, by in found.items() if by is not None}


def _merge(lake: Lake, folder: tuple[str, ...]) -> tuple[int, int, int]:
    """Write a table's rows again, one per id. Returns how many files that replaces, files written, rows left out."""
    files = lake.list_files(*folder)
    replaced = lake.replaced(files)
    files = [path for path in files if path.rsplit("/", 1)[-1] not in replaced]
    kept, repeats = _winners(lake, files)
    # A large file without repeats is as good as a merged one.
    chosen = [(path, rows) for path, rows in kept.items() if rows is not None or lake.fs.size(path) < LARGE_BYTES]
    if len(chosen) < 2 and not repeats:
        return 0, 0, 0
    collected: list[pa.Table] = []
    into = 0
    for number, (path, rows) in enumerate(chosen, start=1):
        with lake.fs.open(path) as file:
            table = pq.read_table(file)
        collected.append((table if rows is None else table.take(rows)).replace_schema_metadata(None))
        complete = number == len(chosen)
        if complete or sum(one.nbytes for one in collected) >= FILE_BYTES:
            table, collected = pa.concat_tables(collected), []
            if complete:
                names = json.dumps([path.rsplit("/", 1)[-1] for path, _ in chosen])
                table = table.replace_schema_metadata({REPLACES: names.encode()})
            lake.write_parquet(table, *folder, f"{MERGED}{uuid.uuid4().hex}.parquet")
            into += 1
    return len(chosen), into, repeats


def _winners(lake: Lake, files: list[str]) -> tuple[dict[str, npt.NDArray[np.int64] | None], int]:
    """Rows to keep of each file (None for all): per id one with a value, else one with an error; how many are lost."""
    columns = {"utterance_id": pads.field("utterance_id"), "failed": ~pads.field("error").is_null()}
    frames = []
    for path in files:
        frame = pl.DataFrame(pads.dataset([path], filesystem=lake.fs, format="parquet").to_table(columns=columns))
        frames.append(frame.with_row_index("row").with_columns(pl.lit(path).alias("path")))
    if not frames:
        return {}, 0
    every = pl.concat(frames)
    first = every.sort("failed", maintain_order=True).unique("utterance_id", keep="first", maintain_order=True)
    of = {path: rows["row"].sort().to_numpy() for (path,), rows in first.partition_by("path", as_dict=True).items()}
    kept = {path: of.get(path, np.empty(0, np.int64)) for path in files}
    sizes = dict(zip(files, map(len, frames), strict=True))
    return {path: None if len(rows) == sizes[path] else rows for path, rows in kept.items()}, len(every) - len(first)
