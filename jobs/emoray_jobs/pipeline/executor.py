"""Drives a phase to its end: pass after pass over what the stage tables still lack.

A pass loses the batches whose process dies, and what a writer that dies had buffered. The next pass finds them by the
same anti-join, with smaller batches. The few rows that are left run one by one, stage by stage. A row that even then
kills its process gets an error as its outcome.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads

from emoray.errors import EmorayError, ServiceError
from emoray.lake.tables import Lake
from emoray.schema import stage_schema
from emoray.stages import pipeline
from emoray.stages.base import Stage
from emoray.stages.config import AnnotateConfig
from emoray.stages.decode import Decode
from emoray_jobs.cluster import hardware
from emoray_jobs.cluster.hardware import ClusterResources
from emoray_jobs.pipeline import costs, pending
from emoray_jobs.pipeline.batches import write_batches
from emoray_jobs.pipeline.costs import CostSums
from emoray_jobs.pipeline.estimate import estimate_work
from emoray_jobs.pipeline.pending import PendingWork
from emoray_jobs.pipeline.pools import Pool
from emoray_jobs.pipeline.rates import Device, device_of, gpus_of_stage, shipped_rate
from emoray_jobs.progress import track

if TYPE_CHECKING:
    from emoray_jobs.config import ClusterConfig
    from emoray_jobs.pipeline.ray_pipeline import RayPipeline
    from emoray_jobs.pipeline.writer import WriterReport

log = logging.getLogger(__name__)

#: A pass that leaves rows undone is repeated with batches this many times smaller …
BATCH_SHRINK_FACTOR = 8
#: … until so few are left that each can be tried by itself.
ISOLATE_BELOW_ROWS = 64


@dataclass(frozen=True)
class PoolUsage:
    """How a pool was used, over all passes.

    Attributes:
        name: Its stages.
        workers: How many it was given at the most.
        busy_s: Time that its workers spent in stages.
        available_s: Time that they were there for, had all of them been there from the beginning of a pass to its end.
    """

    name: str
    workers: int
    busy_s: float
    available_s: float

    @property
    def busy_share(self) -> float:
        """Share of its time that the pool was at work."""
        return self.busy_s / self.available_s if self.available_s else 0.0


@dataclass(frozen=True)
class StageSpending:
    """What a stage was expected to take, and what it took.

    Attributes:
        device: What its time is the time of.
        planned_s: Seconds of work by the rates that were known before the run, loading not included; None where none
            was known.
        spent_s: Seconds of work, loading not included.
        loading_s: Seconds of loading.
        tokens_read: Tokens of a language model's questions.
        tokens_written: Tokens of its answers.
    """

    name: str
    device: Device
    planned_s: float | None
    spent_s: float
    loading_s: float
    tokens_read: float
    tokens_written: float


@dataclass(frozen=True)
class RunResources:
    """Who took part in a run.

    Attributes:
        nodes: Machines that ran stages.
        processes: Worker processes that did.
        peak_memory_bytes: Largest resident memory of each of them and of the driver, summed: an upper bound.
        spilled_bytes: What the cluster's object stores wrote to disk meanwhile, whoever's it was; None if they did not
            say.
        spending: What each stage that ran took, in order.
    """

    nodes: int
    processes: int
    peak_memory_bytes: int
    spilled_bytes: int | None
    pools: list[PoolUsage]
    spending: list[StageSpending]


class StageExecutor:
    """Brings utterances through stages. Starts Ray when there is work, not before.

    Args:
        annotate: Batches, error handling and how often outcomes are written.
        utterances: The utterances table; read again for every pass.
        rows: utterance_id and seconds of the rows to process, in order of id.
        stack: Ends what the run needs for itself.
        ray_stack: Leaves Ray.

    Attributes:
        utterance_lengths: utterance_id and seconds of the rows.
        kept: Those of them that are not left out.
        lacked: By stage, which rows it lacked when it started: one truth value per row of `utterance_lengths`.
    """

    def __init__(
        self,
        lake: Lake,
        cluster: ClusterConfig,
        annotate: AnnotateConfig,
        utterances: pads.Dataset,
        rows: pl.DataFrame,
        stack: contextlib.ExitStack,
        ray_stack: contextlib.ExitStack,
    ) -> None:
        self.utterance_lengths = self.kept = rows
        self.lacked: dict[str, pl.Series] = {}
        self._lake, self._cluster, self._annotate = lake, cluster, annotate
        self._utterances = utterances
        self._stack, self._ray_stack = stack, ray_stack
        self._stages: dict[str, Stage] = {}
        self._joined = False
        self._actor: Any = None
        self._spilled_bytes: int | None = 0
        self._unwritten = 0
        self._ends_run: str | None = None
        self._peak_rss_bytes: dict[str, int] = {}
        self._busy_s: defaultdict[str, float] = defaultdict(float)
        self._had_s: defaultdict[str, float] = defaultdict(float)
        self._workers: dict[str, int] = {}
        self._planned_s: dict[str, float | None] = {}
        self._gpus: dict[str, int] = {}
        self._work: dict[str, CostSums] = {}
        every = [*pipeline.audio_stages(annotate), *pipeline.text_stages(annotate, None)]
        self._types: dict[str, pa.DataType] = {stage.name: stage.value_type for stage in every}

    def run_until_complete(self, stages: Sequence[Stage], fingerprints: Mapping[str, str], what: str) -> None:
        """Repeat passes until every row has an outcome of every stage.

        Args:
            stages: Stages of one phase, in order.
            fingerprints: Fingerprint of every stage that the phase may read.

        Raises:
            ServiceError: A pass got nowhere.
        """
        work = pending.outstanding(self._lake, self.kept, stages, fingerprints)
        self._types |= {stage.name: stage.value_type for stage in stages}
        self._stages |= {stage.name: stage for stage in stages}
        for stage in stages:
            # A stage that filters read is finished before the rest of its phase, which begins with it once more.
            if stage.name not in self.lacked:
                self.lacked[stage.name] = pending.is_member(self.utterance_lengths, work.missing(stage.name))
        max_rows, stalled, in_turn = self._annotate.batch_rows, 0, False
        if work.outcome_count:
            self._plan(work)
        while work.outcome_count:
            problems = self._pass(work, fingerprints, max_rows, what, in_turn=in_turn)
            left = pending.outstanding(self._lake, self.kept, stages, fingerprints)
            if left.outcome_count:
                cause = self._ends_run or "; ".join(problems) or "worker processes died"
                # If processes died: the fewer rows a batch has, the sooner the row that causes it is found.
                in_turn = not problems
                stalled = stalled + 1 if left.outcome_count == work.outcome_count else 0
                # What could not be written after all retries, no further pass will write either.
                if self._ends_run or self._unwritten or (stalled > 1 and (problems or max_rows == 1)):
                    _give_up(left, cause)
                log.warning("%d utterances are not finished and are tried again: %s", left.rows.height, cause)
                if not problems and left.rows.height <= ISOLATE_BELOW_ROWS:
                    self._run_rows_isolated(left, fingerprints)
                    left = pending.outstanding(self._lake, self.kept, stages, fingerprints)
            work, max_rows = left, max(1, max_rows // BATCH_SHRINK_FACTOR)

    def exclude(self, rows: pl.DataFrame) -> None:
        """Take rows out of everything that comes; utterance_id names them."""
        self.kept = self.kept.filter(~pending.is_member(self.kept, rows))

    def resources(self) -> RunResources:
        """Who took part so far."""
        nodes = {process.partition(":")[0] for process in self._peak_rss_bytes}
        return RunResources(
            nodes=len(nodes),
            processes=len(self._peak_rss_bytes),
            peak_memory_bytes=costs.peak_memory_bytes() + sum(self._peak_rss_bytes.values()),
            spilled_bytes=self._spilled_bytes,
            pools=[
                PoolUsage(name, workers, self._busy_s[name], self._had_s[name])
                for name, workers in self._workers.items()
            ],
            spending=[self._spending(name, work) for name, work in self._work.items()],
        )

    def _spending(self, name: str, work: CostSums) -> StageSpending:
        gpus, loading_s = self._gpus.get(name, 0), work.loading_s
        planned_s = self._planned_s.get(name)
        return StageSpending(
            name=name,
            device=device_of(self._stages[name], gpus),
            planned_s=None if planned_s is None else planned_s * max(1, gpus),
            spent_s=(work.spent_s - loading_s) * max(1, gpus),
            loading_s=loading_s * max(1, gpus),
            tokens_read=work.tokens_read,
            tokens_written=work.tokens_written,
        )

    def _plan(self, work: PendingWork) -> None:
        """Note what the stages are expected to take, before what they take becomes known."""
        machines = self._current_machines()
        found = estimate_work(self._lake, work, machines, self._annotate)
        on_cores = {name for pool in found.pools if not pool.gpus for name in pool.stages}
        for stage in work.active_stages():
            gpus = self._gpus[stage.name] = gpus_of_stage(stage, machines, on_cores)
            expected_s = found.work_s[stage.name]
            shipped = shipped_rate(stage, device_of(stage, gpus))
            if expected_s is None and shipped is not None:
                expected_s = float(work.missing(stage.name)["seconds"].sum()) / shipped.audio_s_per_s
            before_s = self._planned_s.get(stage.name, 0.0)
            known = expected_s is not None and before_s is not None
            self._planned_s[stage.name] = (expected_s or 0.0) + (before_s or 0.0) if known else None

    def _pass(
        self, work: PendingWork, fingerprints: Mapping[str, str], max_rows: int, what: str, *, in_turn: bool
    ) -> list[str]:
        """One pass with Ray Data; returns failures outside the rows."""
        pools = estimate_work(self._lake, work, self._current_machines(), self._annotate).pools
        max_audio_s = self._annotate.batch_audio_s
        total, done = work.rows.height, 0
        with (
            self._sink() as (sink, problems),
            self._lake.scratch("annotate") as folder,
            track(what, "utterances") as advance,
        ):
            batches = self._batches(folder, work, fingerprints, max_rows, max_audio_s)
            with self._noting(pools):
                for rows in self._ray_pipeline(work, fingerprints, sink).run(batches, pools, in_turn=in_turn):
                    done += rows
                    advance(done, total)
        return problems

    @contextlib.contextmanager
    def _noting(self, pools: Sequence[Pool]) -> Iterator[None]:
        """Note how long the pools of a pass were there, and what was spilled meanwhile."""
        started, spilled_bytes = time.monotonic(), hardware.spilled_bytes()
        try:
            yield
        finally:
            for pool in pools:
                self._had_s[pool.name] += pool.workers * (time.monotonic() - started)
                self._workers[pool.name] = max(pool.workers, self._workers.get(pool.name, 0))
            now_bytes = hardware.spilled_bytes()
            if self._spilled_bytes is not None and spilled_bytes is not None and now_bytes is not None:
                self._spilled_bytes += now_bytes - spilled_bytes
            else:
                self._spilled_bytes = None

    def _run_rows_isolated(self, work: PendingWork, fingerprints: Mapping[str, str]) -> None:
        """Each row in a separate task, a stage at a time, so that a process that dies shows which row it was."""
        audio = [stage for stage in work.stages if stage.name == Decode.name]
        for stage in work.stages:
            stages = [*audio, stage] if pending.needs_waveform(stage) else [stage]
            todo = pending.outstanding(self._lake, work.rows.select("utterance_id", "seconds"), stages, fingerprints)
            own = PendingWork(stages, todo.missing(stage.name))
            if own.rows.is_empty():
                continue
            died: list[str] = []
            with self._sink() as (sink, _), self._lake.scratch("annotate") as folder:
                batches = self._batches(folder, own, fingerprints, max_rows=1, max_audio_s=0.0)
                died = self._ray_pipeline(own, fingerprints, sink).run_isolated(batches)
            if died:
                message = "the worker process died on this row, alone, twice (out of memory, or a crash in native code)"
                error = {"type": "worker_died", "message": message, "attempts": 2}
                outcomes = [{"utterance_id": name, "value": None, "error": error, "elapsed_s": 0.0} for name in died]
                table = pa.Table.from_pylist(outcomes, stage_schema(stage.value_type))
                self._lake.append_stage(stage.name, fingerprints[stage.name], table)

    def _batches(
        self, folder: str, work: PendingWork, fingerprints: Mapping[str, str], max_rows: int, max_audio_s: float
    ) -> pa.Table:
        reads = {name: fingerprints[name] for name in pending.required_inputs(work.active_stages())}
        return write_batches(
            self._lake, folder, work, self._utterances, reads, max_rows=max_rows, max_audio_s=max_audio_s
        )

    def _ray_pipeline(self, work: PendingWork, fingerprints: Mapping[str, str], sink: Any) -> RayPipeline:
        from emoray_jobs.pipeline.ray_pipeline import RayPipeline

        return RayPipeline(
            work.active_stages(), self._types, fingerprints, self._annotate.guard, self._lake.config, sink
        )

    @contextlib.contextmanager
    def _sink(self) -> Iterator[tuple[Any, list[str]]]:
        """The run's writer, and a list that has the pass's failures afterwards."""
        import ray

        from emoray_jobs.pipeline import writer

        if self._actor is None:
            self._actor = writer.start(self._lake.config, self._annotate.flush_rows, self._annotate.flush_s)
            self._stack.callback(ray.kill, self._actor)
        problems: list[str] = []
        try:
            yield self._actor, problems
        except ray.exceptions.RayError as error:
            problems.append(writer.one_line(error))
        try:
            report: WriterReport = ray.get(self._actor.finish.remote())
        except ray.exceptions.RayError as error:
            problems.append(writer.one_line(error))
        else:
            problems += report.problems
            self._unwritten = report.unwritten
            self._ends_run = report.ends_run
            self._note(report)

    def _note(self, report: WriterReport) -> None:
        for process, peak in report.peak_rss_bytes.items():
            self._peak_rss_bytes[process] = max(peak, self._peak_rss_bytes.get(process, 0))
        for pool, busy_s in report.busy_s.items():
            self._busy_s[pool] += busy_s
        for (stage, machine), work in report.work.items():
            if work.spent_s:
                self._work[stage] = self._work.get(stage, CostSums()) + work
            try:
                costs.add_measurement(self._lake, self._stages[stage], machine, work)
            except EmorayError as error:
                log.warning("what stage %s costs could not be kept: %s", stage, error)

    def _current_machines(self) -> ClusterResources:
        """What the cluster has now; joins it first. Machines come and go between passes."""
        if not self._joined:
            from emoray_jobs.cluster.session import session

            self._ray_stack.enter_context(session(self._cluster, self._lake.config))
            import ray

            self._joined = True
            addresses = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
            if self._lake.is_local and len(addresses) > 1:
                log.warning(
                    "the lake %s is a folder, and the cluster has %d machines: all of them must have it mounted there",
                    self._lake.root,
                    len(addresses),
                )
        return hardware.cluster_resources()


def _give_up(left: PendingWork, cause: str) -> None:
    raise ServiceError(
        f"{left.rows.height} utterances cannot be finished: {cause}",
        remedy="Fix the cause and run the same command again: what is done is kept",
        kind="annotate_stuck",
    )
