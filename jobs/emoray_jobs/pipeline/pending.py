"""What is still to do: anti-joins of ids against the stage tables, and the batches that follow from them. No Ray.

Ids are in memory once, sorted. A table's outcomes are read a few thousand rows at a time and stored by position. A row
costs the driver its id and some twenty bytes, however many stages there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from emoray.lake.tables import Lake
from emoray.stages.base import WAVEFORM, Stage
from emoray.stages.decode import Decode

#: Rows whose ids and errors are read at a time; short rows, so more of them.
ANSWER_ROWS = 16_384
#: Files of a table that are read at the same time.
READ_AHEAD = 4
#: Columns of the utterances table that the driver keeps in memory.
DRIVER_COLUMNS = ("utterance_id", "start_s", "end_s", "duration_s", "split")
#: Length assumed for an utterance that nothing is known about.
UNKNOWN_DURATION_S = 10.0


def outcome_status(lake: Lake, stage: str, fingerprint: str, ids: pl.Series) -> pl.DataFrame:
    """What a stage table says of utterances, without the values.

    Args:
        ids: utterance_ids, sorted, each once.

    Returns:
        One row per id, in their order, a value before an error and the first of several: answered; failed, the error's
        type or null; elapsed_s, 0 where there is no answer.
    """
    columns = {
        "utterance_id": pads.field("utterance_id"),
        "failed": pads.field("error", "type"),
        "elapsed_s": pads.field("elapsed_s"),
    }
    nothing, value = 0, 1

    def read() -> tuple[np.ndarray, np.ndarray, list[str]]:
        kind_N, elapsed_N = np.full(len(ids), nothing, np.uint16), np.zeros(len(ids), np.float32)
        kinds: dict[str, int] = {}
        dataset = lake.dataset("annotations", stage, fingerprint)
        for batch in () if dataset is None else record_batches(dataset, ANSWER_ROWS, columns=columns):
            place, known = positions(ids, batch["utterance_id"])
            place, batch = place[known], batch.filter(pa.array(known))
            failed = batch["failed"].to_pylist()
            found = np.array([value if kind is None else kinds.setdefault(kind, len(kinds) + 2) for kind in failed])
            elapsed = batch["elapsed_s"].to_numpy(zero_copy_only=False)
            for good in (True, False):
                new = (kind_N[place] != value) & (found == value) if good else (kind_N[place] == nothing)
                # Backwards, so that the first of several in a batch is the one that stays.
                kind_N[place[new][::-1]] = found[new][::-1]
                elapsed_N[place[new][::-1]] = elapsed[new][::-1]
        return kind_N, elapsed_N, list(kinds)

    kind_N, elapsed_N, kinds = lake.retry_if_files_vanish(read, "annotations", stage, fingerprint)
    failed = pl.Series("failed", [None, None, *kinds], pl.String).gather(pl.Series(kind_N, dtype=pl.UInt32))
    return pl.DataFrame({"answered": kind_N != nothing, "failed": failed, "elapsed_s": elapsed_N})


def positions(ids: pl.Series, some: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Positions of ids among sorted ids (any, where it is not among them), and whether each is among them."""
    named = pl.Series(some, dtype=pl.String)
    if ids.is_empty():
        return np.zeros(len(named), np.int64), np.zeros(len(named), bool)
    place = ids.search_sorted(named).clip(upper_bound=len(ids) - 1)
    return place.to_numpy(), (ids.gather(place) == named).to_numpy()


def is_member(rows: pl.DataFrame, some: pl.DataFrame) -> pl.Series:
    """Which rows are among others: one truth value per row; both have utterance_id, the first in order."""
    place, known = positions(rows["utterance_id"], some["utterance_id"].to_arrow())
    found_N = np.zeros(rows.height, bool)
    found_N[place[known]] = True
    return pl.Series(found_N)


def record_batches(dataset: pads.Dataset, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
    """Batches of a dataset, in little memory: few files read ahead, and decoded where they are used.

    Arrow's threads each keep the memory that they once took, so there are no more of them than files under way.
    """
    pa.set_io_thread_count(READ_AHEAD)
    ahead = {"batch_readahead": 1, "fragment_readahead": READ_AHEAD, "use_threads": False}
    yield from dataset.to_batches(**options, **ahead, batch_size=rows)


def errors(lake: Lake, stage: str, fingerprint: str) -> dict[str, dict[str, Any]]:
    """The errors of a stage table by utterance_id; a row that also has a value is not among them."""

    def read() -> pl.DataFrame | None:
        outcomes = lake.stage_outcomes(stage, fingerprint, columns=["error"])
        return None if outcomes is None else outcomes.filter(pl.col("error").is_not_null()).collect()

    failed = lake.retry_if_files_vanish(read, "annotations", stage, fingerprint)
    return {} if failed is None else dict(zip(failed["utterance_id"], failed["error"].to_list(), strict=True))


def forget_failures(lake: Lake, stage: str, fingerprint: str) -> int:
    """Drop the errors of a stage table, file by file, so that the anti-join finds those rows; returns how many."""
    dropped = 0
    for path in lake.list_files("annotations", stage, fingerprint):
        with lake.fs.open(path) as file:
            table = pq.read_table(file)
        kept = table.filter(pc.field("error").is_null())
        if kept.num_rows == table.num_rows:
            continue
        if kept.num_rows:
            lake.append_stage(stage, fingerprint, kept)
        with contextlib.suppress(FileNotFoundError):
            lake.fs.rm_file(path)
        dropped += table.num_rows - kept.num_rows
    return dropped


@dataclass(frozen=True)
class PendingWork:
    """Rows of a phase that lack an outcome of at least one of its stages.

    Attributes:
        rows: utterance_id, seconds and, by the name of each stage, whether it is lacking; in order of id.
    """

    stages: Sequence[Stage]
    rows: pl.DataFrame

    @property
    def outcome_count(self) -> int:
        """How many outcomes are outstanding."""
        return sum(int(self.rows[stage.name].sum()) for stage in self.stages)

    def missing(self, stage: str) -> pl.DataFrame:
        """The rows that lack an outcome of a stage."""
        return self.rows.filter(stage)

    def active_stages(self) -> list[Stage]:
        """The stages that must run: those with something to do, and `decode` if one of them reads the waveform."""
        busy = [stage for stage in self.stages if self.rows[stage.name].any()]
        heard = any(map(needs_waveform, busy))
        return [stage for stage in self.stages if stage in busy or (heard and stage.name == Decode.name)]


def outstanding(
    lake: Lake, utterances: pl.DataFrame, stages: Sequence[Stage], fingerprints: Mapping[str, str]
) -> PendingWork:
    """What utterances (utterance_id and seconds, in order of id) lack by the stage tables."""
    ids = utterances["utterance_id"]
    lacks = [~outcome_status(lake, one.name, fingerprints[one.name], ids)["answered"].alias(one.name) for one in stages]
    return PendingWork(stages, utterances.with_columns(lacks).filter(pl.any_horizontal(one.name for one in stages)))


def utterance_lengths(utterances: pa.Table) -> pl.DataFrame:
    """utterance_id and seconds of an utterances table, in order of id, with a guess where it does not say."""
    told, span = utterances["duration_s"], pc.subtract(utterances["end_s"], utterances["start_s"])
    seconds = pc.coalesce(told, span, pa.scalar(UNKNOWN_DURATION_S, pa.float64()))
    return pl.DataFrame(pa.table({"utterance_id": utterances["utterance_id"], "seconds": seconds})).sort("utterance_id")


def needs_waveform(stage: Stage) -> bool:
    """Whether a stage reads the waveform."""
    return WAVEFORM in (*stage.requires, *stage.uses)


def required_inputs(stages: Sequence[Stage]) -> list[str]:
    """Names of the stage values that stages read, their own included; `decode` stands for the waveform."""
    names = [Decode.name if name == WAVEFORM else name for stage in stages for name in (*stage.requires, *stage.uses)]
    return list(dict.fromkeys(names))
