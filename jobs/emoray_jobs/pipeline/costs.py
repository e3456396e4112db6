"""What stages cost: measured wherever they run, kept in the lake by stage and kind of machine, read by the planner.

The first batch of a stage in a process fetches its weights, so it is kept apart, and so are those that run beside it.
Of the others, sums are kept, which add up over runs; from them follows a least-squares line of cost over rows and
seconds of audio. Batches that a process works on at the same time share the time that passes.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import resource
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emoray.engines.usage import Tokens, counting
from emoray.lake.tables import Lake
from emoray.stages.base import Row, Stage
from emoray.stages.fingerprint import fingerprint
from emoray.stages.guard import GuardConfig, RowOutcome, run_isolating_rows
from emoray_jobs.pipeline import pending
from emoray_jobs.pipeline.clocks import SharedClock

log = logging.getLogger(__name__)

#: Older measurements count as no more than so many rows, so that new ones make themselves felt.
REMEMBERED_ROWS = 20_000
#: Below this share of the largest possible value, the determinant says that the batches were all alike.
MIN_RELATIVE_DETERMINANT = 1e-3

#: Stages that this process has run a batch of, by key and kind of machine.
_begun: set[tuple[str, str]] = set()
#: Time of this process's cores, and time that passes.
_CORES, _PASSING = SharedClock(time.process_time), SharedClock(time.perf_counter)


@dataclass(frozen=True)
class Cost:
    """What a stage costs on one kind of machine.

    Attributes:
        per_row_s: Seconds of work per row: of a core, or of a worker with its GPU.
        per_audio_s: Further seconds of work per second of audio.
        start_s: Seconds until a new process has loaded what the stage needs.
        peak_bytes: Largest resident memory of a process that ran it.
        rows: How many rows this rests on.
        tokens_read: Tokens of a language model's questions, per row; 0 where nobody counted any.
        tokens_written: Tokens of its answers, per row.
    """

    per_row_s: float
    per_audio_s: float
    start_s: float
    peak_bytes: int
    rows: float
    tokens_read: float = 0.0
    tokens_written: float = 0.0

    def work_s(self, rows: int, audio_s: float) -> float:
        """Seconds of work that rows will take."""
        return self.per_row_s * rows + self.per_audio_s * audio_s


@dataclass(frozen=True)
class CostSums:
    """Batches that went through one stage, as sums.

    Attributes:
        rows: Rows, without those of first batches.
        audio_s: Their seconds of audio.
        work_s: Time that they took.
        audio2: Sum over batches of audio_s² / rows.
        audio_work: Sum over batches of audio_s · work_s / rows.
        starts: First batches of a process.
        start_rows: Rows of these, and of batches that began before the first one had ended.
        start_audio_s: Their seconds of audio.
        start_work_s: Time that they took.
        peak_bytes: Largest resident memory of the processes.
        token_rows: Rows, those of first batches included, whose tokens were counted.
        tokens_read: Tokens of their questions, repairs included.
        tokens_written: Tokens of the answers.
    """

    rows: float = 0
    audio_s: float = 0
    work_s: float = 0
    audio2: float = 0
    audio_work: float = 0
    starts: float = 0
    start_rows: float = 0
    start_audio_s: float = 0
    start_work_s: float = 0
    peak_bytes: int = 0
    token_rows: float = 0
    tokens_read: float = 0
    tokens_written: float = 0

    @classmethod
    def of_batch(
        cls,
        rows: int,
        audio_s: float,
        work_s: float,
        *,
        first: bool,
        peak_bytes: int,
        beside_first: bool = False,
        tokens: Tokens | None = None,
    ) -> CostSums:
        """One batch: the first of its process, one that ran beside that, or a later one."""
        if tokens is not None and tokens.read:
            counted = cls(token_rows=rows, tokens_read=tokens.read, tokens_written=tokens.written)
            return counted + cls.of_batch(
                rows, audio_s, work_s, first=first, peak_bytes=peak_bytes, beside_first=beside_first
            )
        if first or beside_first:
            return cls(
                starts=int(first),
                start_rows=rows,
                start_audio_s=audio_s,
                start_work_s=work_s,
                peak_bytes=peak_bytes,
            )
        return cls(rows, audio_s, work_s, audio_s**2 / rows, audio_s * work_s / rows, peak_bytes=peak_bytes)

    def __add__(self, other: CostSums) -> CostSums:
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self)
        }
        return CostSums(**{**sums, "peak_bytes": max(self.peak_bytes, other.peak_bytes)})

    def decayed(self) -> CostSums:
        """The same measurements with the weight of `REMEMBERED_ROWS` at most."""
        share = min(1.0, REMEMBERED_ROWS / self.rows) if self.rows else 1.0
        scaled = {field.name: getattr(self, field.name) * share for field in dataclasses.fields(self)}
        return CostSums(**{**scaled, "peak_bytes": self.peak_bytes})

    def cost(self) -> Cost | None:
        """The line through the batches; None where there were first batches only.

        Weighted by rows, so that it gives back the time of what it was fitted to; neither slope is negative.
        """
        if not self.rows:
            return None
        per_row_s, per_audio_s = self.work_s / self.rows, 0.0
        if self.audio_s:
            determinant = self.rows * self.audio2 - self.audio_s**2
            # Batches of one length tell nothing of its influence; text and sound both grow with it.
            per_row_s, per_audio_s = 0.0, self.work_s / self.audio_s
            if determinant > MIN_RELATIVE_DETERMINANT * self.rows * self.audio2:
                per_row_s = (self.work_s * self.audio2 - self.audio_work * self.audio_s) / determinant
                per_audio_s = (self.rows * self.audio_work - self.audio_s * self.work_s) / determinant
                if per_audio_s < 0:
                    per_row_s, per_audio_s = self.work_s / self.rows, 0.0
                elif per_row_s < 0:
                    per_row_s, per_audio_s = 0.0, self.work_s / self.audio_s
        start_s = 0.0
        if self.starts:
            warm_s = per_row_s * self.start_rows + per_audio_s * self.start_audio_s
            start_s = max(0.0, self.start_work_s - warm_s) / self.starts
        counted = self.token_rows or 1.0
        tokens = (self.tokens_read / counted, self.tokens_written / counted)
        return Cost(per_row_s, per_audio_s, start_s, self.peak_bytes, self.rows, *tokens)

    @property
    def spent_s(self) -> float:
        """All time, that of first batches included."""
        return self.work_s + self.start_work_s

    @property
    def loading_s(self) -> float:
        """What of it went into loading; 0 where first batches are all there is, which tell nothing of it."""
        cost = self.cost()
        return cost.start_s * self.starts if cost else 0.0


@dataclass(frozen=True)
class BatchTiming:
    """What a worker did of one batch.

    Attributes:
        pool: Name of its pool.
        machine: Kind of machine that it computes on.
        busy_s: Time that passed in its stages.
        work: What was measured, by stage.
    """

    pool: str
    machine: str
    busy_s: float
    work: dict[str, CostSums]


def run_measured(
    stage: Stage, rows: Sequence[Row], guard: GuardConfig, machine: str, *, on_gpu: bool
) -> tuple[list[RowOutcome], CostSums]:
    """Run a stage over rows, as `run_isolating_rows` does, and measure.

    Args:
        on_gpu: Count the time that passes. Otherwise that of the cores: it stays the same when others use them too.
    """
    mark = (key(stage), machine)
    loading = mark not in _begun
    clock = _PASSING if on_gpu or stage.waits else _CORES
    started = clock.start()
    with counting() as tokens:
        try:
            outcomes = run_isolating_rows(stage, rows, guard)
        finally:
            work_s = clock.stop(started)
    # A row that lacked an input cost nothing, and would make the others look cheap.
    tried = [seconds_of(row) for row, outcome in zip(rows, outcomes, strict=True) if outcome.elapsed_s > 0]
    if not tried:
        return outcomes, CostSums()
    first = mark not in _begun
    _begun.add(mark)
    work = CostSums.of_batch(
        len(tried),
        sum(tried),
        work_s,
        first=first,
        peak_bytes=peak_memory_bytes(),
        beside_first=loading,
        tokens=tokens,
    )
    return outcomes, work


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def key(stage: Stage) -> str:
    """Key of a stage's cost: its version and options. Its inputs do not matter."""
    return f"{stage.name}-{fingerprint(stage, {})}"


def load_costs(lake: Lake, stages: Iterable[Stage], machine: str) -> dict[str, Cost]:
    """What is known of stages on one kind of machine, by the stage's name."""
    found = {stage.name: _read(lake, stage, machine).cost() for stage in stages}
    return {name: cost for name, cost in found.items() if cost is not None}


def add_measurement(lake: Lake, stage: Stage, machine: str, work: CostSums) -> None:
    """Add measurements to what is known. Of two runs that do so at the same moment, one may go unheard."""
    if work.rows or work.starts:
        known = _read(lake, stage, machine).decayed()
        lake.write_json(dataclasses.asdict(known + work), *_place(stage, machine))


def _read(lake: Lake, stage: Stage, machine: str) -> CostSums:
    place = _place(stage, machine)
    if not lake.exists(*place):
        return CostSums()
    try:
        return CostSums(**lake.read_json(*place))
    except (TypeError, ValueError) as error:
        log.warning("%s is not a record of costs, and is passed over: %s", lake.uri(*place), error)
        return CostSums()


def _place(stage: Stage, machine: str) -> tuple[str, str, str]:
    return "calibration", re.sub(r"[^A-Za-z0-9.]+", "-", machine).strip("-"), f"{key(stage)}.json"


def seconds_of(row: Row) -> float:
    """Seconds of audio of a row, as the worklist counts them."""
    if row.get("duration_s") is not None:
        return float(row["duration_s"])
    if row.get("start_s") is not None and row.get("end_s") is not None:
        return float(row["end_s"] - row["start_s"])
    return pending.UNKNOWN_DURATION_S
