"""Utterances joined with what the stages before said of them, written as batches that workers read."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from emoray.lake.tables import Lake
from emoray_jobs.pipeline.pending import PendingWork, positions, record_batches

#: Rows in memory at a time while stage values are joined in.
PART_ROWS = 4096
#: Most parts: each is a file, and all are open at once.
MAX_PARTS = 256
#: What workers get to know about a batch.
BATCHES = pa.schema([("path", pa.string()), ("row_group", pa.int32()), ("rows", pa.int32()), ("first_id", pa.string())])
#: Column with the names of the stages that a row still lacks.
LACKING = "_lacking"
#: Number of the batch that a row belongs to.
BATCH = "_batch"


def join_stage_values(
    lake: Lake,
    utterances: pads.Dataset,
    ids: pl.Series,
    fingerprints: Mapping[str, str],
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Utterances with the values of stages beside them, in order of id; but for the ids, memory hardly grows.

    Each table is read once and spread over the parts (local scratch files), as a join does that exceeds memory.

    Args:
        columns: Columns of the utterances table, utterance_id among them; None for all.

    Yields:
        The utterances' columns and one column per stage, null where the stage has no value.

    Raises:
        LakeError: The utterances table was replaced meanwhile.
    """
    size = max(PART_ROWS, -(-len(ids) // MAX_PARTS))
    ids = ids.sort()
    with tempfile.TemporaryDirectory(prefix="emoray-join-") as folder:
        read = {"columns": None if columns is None else list(columns)}
        lake.retry_if_files_vanish(
            lambda: _partition(utterances, read, ids, size, os.path.join(folder, "rows")), "utterances"
        )
        for stage, fingerprint in fingerprints.items():
            spread = functools.partial(_partition_stage, lake, stage, fingerprint, ids, size, folder)
            lake.retry_if_files_vanish(spread, "annotations", stage, fingerprint)
        for part in range(-(-len(ids) // size)):
            own = ids.slice(part * size, size).to_arrow().cast(pa.string())
            table = _part(folder, "rows", part, own)
            assert table is not None
            for stage in fingerprints:
                values = _part(folder, f"stage-{stage}", part, own)
                table = table.append_column(stage, pa.nulls(len(own)) if values is None else values["value"])
            yield table


def _partition_stage(lake: Lake, stage: str, fingerprint: str, ids: pl.Series, size: int, folder: str) -> None:
    dataset = lake.dataset("annotations", stage, fingerprint)
    if dataset is not None:
        read = {"columns": ["utterance_id", "value"], "filter": pads.field("error").is_null()}
        _partition(dataset, read, ids, size, os.path.join(folder, f"stage-{stage}"))


def _partition(dataset: pads.Dataset, read: Mapping[str, Any], ids: pl.Series, size: int, prefix: str) -> None:
    """Spread the rows of sorted ids over files, one per part of `size` ids."""
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    with contextlib.ExitStack() as stack:
        for batch in record_batches(dataset, PART_ROWS, **read):
            place, known = positions(ids, batch["utterance_id"])
            for part in np.unique(place[known] // size).tolist():
                if part not in writers:
                    writers[part] = stack.enter_context(pa.ipc.new_file(f"{prefix}-{part}.arrow", batch.schema))
                writers[part].write_batch(batch.filter(pa.array(known & (place // size == part))))


def _part(folder: str, name: str, part: int, ids: pa.Array) -> pa.Table | None:
    """The rows of a part in the order of ids, null where there is none; None if there is none at all."""
    path = os.path.join(folder, f"{name}-{part}.arrow")
    if not os.path.exists(path):
        return None
    with pa.memory_map(path) as file:
        table = pa.ipc.open_file(file).read_all().combine_chunks()
        return table.take(pc.index_in(ids, value_set=table["utterance_id"].combine_chunks()))


def write_batches(
    lake: Lake,
    folder: str,
    work: PendingWork,
    utterances: pads.Dataset,
    reads: Mapping[str, str],
    *,
    max_rows: int,
    max_audio_s: float,
) -> pa.Table:
    """Write rows to scratch files, one row group per batch, clips of like length together.

    Args:
        lake: Where the tables are; the files go below it, where every worker can read them.
        folder: Folder for the files, relative to the lake's root.
        work: Which rows, and what they lack, which goes along as `_lacking`.
        utterances: The utterances table; what is not in `work` is left out.
        reads: Stages whose values go along, with their fingerprints.
        max_audio_s: Seconds of audio of a batch (a single clip may be longer).

    Returns:
        One row per batch: path below the lake's root, row_group, rows, first_id.
    """
    rows, names = work.rows, [stage.name for stage in work.stages]
    batches: list[dict[str, object]] = []
    for number, table in enumerate(join_stage_values(lake, utterances, rows["utterance_id"], reads)):
        part, rows = rows.head(table.num_rows), rows.slice(table.num_rows)
        missing = [list(itertools.compress(names, lacks)) for lacks in part.select(names).iter_rows()]
        table = table.append_column(LACKING, pa.array(missing, pa.list_(pa.string())))
        path = f"{folder}/part-{number:05d}.parquet"
        buffer = io.BytesIO()
        schema = table.schema.append(pa.field(BATCH, pa.int32()))
        with pq.ParquetWriter(buffer, schema, compression="lz4") as writer:
            for group, members in enumerate(_batches(part["seconds"].to_numpy(), max_rows, max_audio_s)):
                own = table.take(members).append_column(BATCH, pa.array([len(batches)] * len(members), pa.int32()))
                writer.write_table(own, row_group_size=len(members))
                first_id = table["utterance_id"][int(members[0])].as_py()
                batches.append({"path": path, "row_group": group, "rows": len(members), "first_id": first_id})
        lake.write_bytes(buffer.getvalue(), path)
    return pa.Table.from_pylist(batches, BATCHES)


def _batches(seconds: np.ndarray, max_rows: int, max_audio_s: float) -> list[np.ndarray]:
    """Cut a part's rows, shortest first, into batches under both caps."""
    order = np.argsort(seconds, kind="stable")
    groups: list[np.ndarray] = []
    start, total = 0, 0.0
    for position, row in enumerate(order):
        if position > start and (position - start >= max_rows or total + seconds[row] > max_audio_s):
            groups.append(order[start:position])
            start, total = position, 0.0
        total += float(seconds[row])
    return [*groups, order[start:]] if len(order) else groups


def read_batch(lake: Lake, path: str, row_group: int) -> pa.Table:
    """Read one batch that `write_batches` wrote."""
    with lake.fs.open(lake.path(path)) as file:
        return pq.ParquetFile(file).read_row_group(row_group)
