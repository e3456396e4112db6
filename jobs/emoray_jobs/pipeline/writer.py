"""The outcome writer: one actor that gathers outcomes and writes them to the stage tables as whole files.

What is in its buffer is not done: if it dies, the anti-join of the next pass finds those rows again. The rework after a
kill is therefore at most the rows in flight plus one buffer per stage, whose size is `flush_rows` or `flush_s`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from emoray.errors import ServiceError
from emoray.lake.tables import Lake, LakeConfig
from emoray_jobs.pipeline.costs import BatchTiming, CostSums

MAX_PROBLEMS = 20


@dataclass
class WriterReport:
    """What a writer received since its last report.

    Attributes:
        rows: Outcomes received.
        files: Files written.
        unwritten: Outcomes that could not be written to the end.
        peak_rss_bytes: Largest resident memory of each worker process that reported, by process.
        busy_s: Time that passed in the stages of each pool, over its workers, by name.
        work: What was measured, by stage and kind of machine.
        problems: Failures outside the rows (a disk that is full, a stage that could not be built), as text.
        ends_run: The failure that any further batch would meet too; None if there was none.
    """

    rows: int = 0
    files: int = 0
    unwritten: int = 0
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=dict)
    work: dict[tuple[str, str], CostSums] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ends_run: str | None = None


class OutcomeWriter:
    """Buffers outcomes per stage and writes a file when enough has come together or enough time has passed."""

    def __init__(self, lake: LakeConfig, flush_rows: int, flush_s: float) -> None:
        self._lake = Lake(lake)
        self._flush_rows = flush_rows
        self._flush_s = flush_s
        self._lock = threading.Lock()
        self._buffers: dict[tuple[str, str], list[pa.Table]] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._seen = WriterReport()
        self._stuck: set[tuple[str, str]] = set()
        threading.Thread(target=self._flush_overdue, name="flush-overdue", daemon=True).start()

    def raise_if_pointless(self) -> None:
        """Ask before computing. What could not be written is tried again, and while that fails no work is worth doing.

        Raises:
            EmorayError: A file cannot be written, or the run is ending.
        """
        with self._lock:
            if self._seen.ends_run is not None:
                raise ServiceError(self._seen.ends_run)
            for table in list(self._stuck):
                self._write(table)

    def add(self, outcomes: dict[tuple[str, str], pa.Table], process: str, peak_rss_bytes: int) -> None:
        """Take outcomes of a batch: rows of stage tables by (stage, fingerprint).

        Raises:
            EmorayError: A file could not be written; all rows stay in the buffer.
        """
        with self._lock:
            peaks = self._seen.peak_rss_bytes
            peaks[process] = max(peak_rss_bytes, peaks.get(process, 0))
            for table, rows in outcomes.items():
                self._seen.rows += rows.num_rows
                self._buffers.setdefault(table, []).append(rows)
                self._since.setdefault(table, time.monotonic())
            for table in outcomes:
                if sum(part.num_rows for part in self._buffers[table]) >= self._flush_rows:
                    self._write(table)

    def record_timing(self, shift: BatchTiming) -> None:
        """Take note of the time that a batch took."""
        with self._lock:
            seen = self._seen
            seen.busy_s[shift.pool] = seen.busy_s.get(shift.pool, 0.0) + shift.busy_s
            for stage, work in shift.work.items():
                where = (stage, shift.machine)
                seen.work[where] = seen.work.get(where, CostSums()) + work

    def record_failure(self, text: str, *, ends_run: bool = False) -> None:
        """Take note of a failure outside the rows, which any further batch would meet too if it `ends_run`."""
        with self._lock:
            if ends_run and self._seen.ends_run is None:
                self._seen.ends_run = text
            if self._seen.ends_run is None:
                self._note(text)

    def buffered_rows(self) -> int:
        """How many outcomes are in the buffer, not written yet."""
        with self._lock:
            return sum(part.num_rows for parts in self._buffers.values() for part in parts)

    def finish(self) -> WriterReport:
        """Write everything that is buffered. The report's problems say what could not be written."""
        with self._lock:
            self._write_or_note(list(self._buffers))
            report, self._seen = self._seen, WriterReport()
            report.unwritten = sum(part.num_rows for parts in self._buffers.values() for part in parts)
            return report

    def _write(self, table: tuple[str, str]) -> None:
        stage, fingerprint = table
        self._stuck.add(table)
        self._lake.append_stage(stage, fingerprint, pa.concat_tables(self._buffers[table]))
        self._seen.files += 1
        self._stuck.remove(table)
        del self._buffers[table], self._since[table]

    def _write_or_note(self, tables: list[tuple[str, str]]) -> None:
        for table in tables:
            try:
                self._write(table)
            except Exception as error:
                # Kept in the buffer, and found again by `raise_if_pointless` and `finish`.
                self._note(one_line(error))

    def _note(self, text: str) -> None:
        if text not in self._seen.problems and len(self._seen.problems) < MAX_PROBLEMS:
            self._seen.problems.append(text)

    def _flush_overdue(self) -> None:
        while True:
            time.sleep(self._flush_s / 4)
            with self._lock:
                now = time.monotonic()
                self._write_or_note([table for table, since in self._since.items() if now - since >= self._flush_s])


def one_line(error: Exception) -> str:
    """What went wrong in one line; Ray wraps an exception of another process into one whose text is the trace."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else 'no message'}"


def start(lake: LakeConfig, flush_rows: int, flush_s: float) -> Any:
    """Start a writer on this node. It takes no core. If its process dies, Ray restarts it with an empty buffer."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    actor = ray.remote(OutcomeWriter).options(num_cpus=0, max_restarts=-1, max_task_retries=3, scheduling_strategy=here)
    return actor.remote(lake, flush_rows, flush_s)
