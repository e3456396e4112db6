"""One pass of a phase on Ray Data: batches of rows through the phase's stages, outcomes into the sink.

Neighbouring CPU stages share one task operator, so that a waveform lives and dies in one process; stages that hold
weights get an actor pool. Nothing depends on order, and nothing comes back but ids: the stage tables are the record.
"""

from __future__ import annotations

import functools
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from emoray.errors import ConfigError, MissingExtraError, RefusedError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import UTTERANCES, stage_schema
from emoray.stages.base import WAVEFORM, Row, Stage
from emoray.stages.decode import Decode
from emoray.stages.guard import GuardConfig, RowOutcome
from emoray_jobs.cluster import hardware
from emoray_jobs.pipeline.batches import BATCH, LACKING, read_batch
from emoray_jobs.pipeline.clocks import SharedClock
from emoray_jobs.pipeline.costs import BatchTiming, CostSums, peak_memory_bytes, run_measured
from emoray_jobs.pipeline.orphans import end_with_raylet
from emoray_jobs.pipeline.pending import needs_waveform, required_inputs
from emoray_jobs.pipeline.pools import Pool, group_stages
from emoray_jobs.pipeline.writer import one_line

log = logging.getLogger(__name__)

#: Blocks of a pass: enough to keep every worker busy to the end, few enough for Ray to keep account of.
BLOCKS_PER_WORKER, MAX_BLOCKS = 128, 4096
#: Most batches that a worker works on at the same time. They are reckoned from small ones (of long clips).
MAX_CALLS, SMALL_BATCH_QUANTILE = 16, 0.1
#: Time that passes while this process works on batches.
_busy = SharedClock(time.perf_counter)
IDS = pa.schema([("utterance_id", pa.string())])
#: Errors that every other batch would meet too: the run ends with the cause.
ENDS_RUN = (ConfigError, MissingExtraError, RefusedError)


@dataclass(eq=False)  # not frozen: Ray Data adds attributes
class StageOperator:
    """The stages of one operator, over blocks of rows. An actor's may be called from several threads at a time.

    Attributes:
        output_schema: Schema of the rows that the next operator reads; None for the last operator.
        lake: Where the batches of the first operator are; None for a later operator, whose blocks hold the rows.
        sink: Actor that takes the outcomes.
    """

    stages: Sequence[Stage]
    output_schema: pa.Schema | None
    fingerprints: Mapping[str, str]
    guard: GuardConfig
    lake: LakeConfig | None
    sink: Any

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Run a block: descriptors of batches for the first operator, the rows of whole batches for the later ones."""
        if self.lake is None:
            for number in pc.unique(block[BATCH]):
                yield from self._run(functools.partial(block.filter, pc.field(BATCH) == number))
            return
        for batch in block.to_pylist():
            yield from self._run(functools.partial(read_batch, Lake(self.lake), batch["path"], batch["row_group"]))

    def _run(self, read: Callable[[], pa.Table]) -> Iterator[pa.Table]:
        end_with_raylet()
        try:
            ray.get(self.sink.raise_if_pointless.remote())
            rows = _to_rows(read())
            outcomes, work = {}, {}
            started = _busy.start()
            try:
                for stage in self.stages:
                    made, work[stage.name] = self._annotate(stage, rows)
                    done = [outcome for outcome in made if not outcome.stays_to_do]
                    outcomes[(stage.name, self.fingerprints[stage.name])] = _outcome_table(stage, done)
                    rows = self._without_those_that_stay(rows, made)
            finally:
                busy_s = _busy.stop(started)
            pool, (machine, _) = "+".join(stage.name for stage in self.stages), hardware.kind_of_worker()
            self.sink.record_timing.remote(BatchTiming(pool, machine, busy_s, work))
            context = ray.get_runtime_context()
            process = f"{context.get_node_id()}:{context.get_worker_id()}"
            recorded = {name: table for name, table in outcomes.items() if table.num_rows}
            ray.get(self.sink.add.remote(recorded, process, peak_memory_bytes()))
            yield _to_table(rows, self.output_schema or IDS)
        except Exception as error:
            # Not a row's fault (those are outcomes): a disk that is full, storage that is away. These rows stay to do.
            self.sink.record_failure.remote(one_line(error), ends_run=isinstance(error, ENDS_RUN))

    def _without_those_that_stay(self, rows: list[Row], outcomes: list[RowOutcome]) -> list[Row]:
        """The rows that go on: what was not done for a passing reason is done in a later pass."""
        stay = {outcome.utterance_id: outcome.error for outcome in outcomes if outcome.stays_to_do}
        for problem in {f"{error['type']}: {error['message']}" for error in stay.values() if error}:
            self.sink.record_failure.remote(problem)
        return [row for row in rows if row["utterance_id"] not in stay]

    def _annotate(self, stage: Stage, rows: list[Row]) -> tuple[list[RowOutcome], CostSums]:
        kind, on_gpu = hardware.kind_of_worker()
        missing = [row for row in rows if stage.name in row[LACKING]]
        more = CostSums()
        if stage.name == Decode.name:
            # Done before, but a later stage needs the waveform. Where decoding failed, that stage says missing_input.
            again = [row for row in rows if stage.name not in row[LACKING] and row.get(stage.name) is not None]
            _, more = run_measured(stage, again, self.guard, kind, on_gpu=on_gpu)
        outcomes, work = run_measured(stage, missing, self.guard, kind, on_gpu=on_gpu)
        return outcomes, work + more


@dataclass(frozen=True)
class RayPipeline:
    """A phase's stages as something that batches can be sent through.

    Attributes:
        types: Type of every stage's value, of those too that are only read.
        sink: Actor that takes the outcomes.
    """

    stages: Sequence[Stage]
    types: Mapping[str, pa.DataType]
    fingerprints: Mapping[str, str]
    guard: GuardConfig
    lake: LakeConfig
    sink: Any

    def run(self, batches: pa.Table, pools: Sequence[Pool], *, in_turn: bool) -> Iterator[int]:
        """Send batches through with Ray Data. Batches whose process dies are left out: they stay to do.

        Args:
            batches: What `batches.write_batches` returned.
            pools: The workers of each of the stages' pools, in order.
            in_turn: A worker takes one batch after the other, so that its death costs no more than two.

        Yields:
            How many more rows are through.
        """
        if not log.isEnabledFor(logging.INFO):
            # It would print a trace per lost batch; the passes say in a line what was lost.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            # Ray 2.60 deprecates the arguments that limit retries, and has no others yet.
            warnings.filterwarnings("ignore", category=RayDeprecationWarning, message=".*ray_remote_args")
            dataset = self._dataset(batches, pools, in_turn=in_turn)
        for ids in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            assert isinstance(ids, pa.Table)
            yield ids.num_rows

    def _dataset(self, batches: pa.Table, pools: Sequence[Pool], *, in_turn: bool) -> ray.data.Dataset:
        groups = group_stages(self.stages)
        largest = pc.max(batches["rows"]).as_py()
        size = -(-batches.num_rows // min(MAX_BLOCKS, BLOCKS_PER_WORKER * pools[0].workers))
        blocks = [batches.slice(start, size) for start in range(0, batches.num_rows, size)]
        dataset: ray.data.Dataset = ray.data.from_arrow(blocks)
        dataset.context.max_errored_blocks = -1
        dataset.context.enable_progress_bars = False
        for position, (group, pool) in enumerate(zip(groups, pools, strict=True)):
            later = [stage for rest in groups[position + 1 :] for stage in rest]
            output_schema = _row_schema(later, self.types) if later else None
            lake = None if position else self.lake
            arguments = (group, output_schema, self.fingerprints, self.guard, lake, self.sink)
            # The first operator's blocks hold batches, one in a row; those of the later ones hold the batches' rows.
            options: dict[str, Any] = {"batch_size": None if position else 1, "batch_format": "pyarrow"}
            options["num_cpus"] = pool.cpus
            if pool.uses_actors:
                calls = 1 if in_turn else concurrent_calls(group, batches["rows"])
                options["compute"] = ray.data.ActorPoolStrategy(
                    min_size=pool.workers if pool.fixed else 1,
                    max_size=pool.workers,
                    max_concurrent_calls_per_actor=calls,
                    # One more is on its way, so that a worker's rows are there when it has done with others.
                    max_tasks_in_flight_per_actor=calls + 1,
                    enable_true_multi_threading=calls > 1,
                )
                options["fn_constructor_args"] = arguments
                if pool.gpus:
                    # Ray then wants a number of rows: those of the largest batch; it may put short ones together.
                    options |= {"num_gpus": pool.gpus, "batch_size": options["batch_size"] or largest}
                # An actor that died comes back, but not to the batch that it died of. Ray has to see to it: Ray Data's
                # pool counts the dead as workers (ray-project/ray#62746), and would wait for its last one for ever.
                dataset = dataset.map_batches(StageOperator, max_restarts=-1, max_task_retries=0, **options)
            else:
                options["compute"] = ray.data.TaskPoolStrategy(min(pool.workers, len(blocks)))
                if pool.memory_bytes:
                    options["memory"] = pool.memory_bytes
                dataset = dataset.map_batches(StageOperator(*arguments), max_retries=1, **options)
        return dataset

    def run_isolated(self, batches: pa.Table) -> list[str]:
        """Run every batch as a task in a separate process; returns the utterance_ids of those whose process died."""
        operator = StageOperator(self.stages, None, self.fingerprints, self.guard, self.lake, self.sink)
        # Twice, so that no row is blamed for the loss of the machine that it was on.
        lone = ray.remote(num_cpus=1, max_retries=1)(_consume)
        tasks = [
            (lone.remote(operator, batches.slice(row, 1)), batches["first_id"][row].as_py())
            for row in range(batches.num_rows)
        ]
        died = []
        for task, utterance_id in tasks:
            try:
                ray.get(task)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                died.append(utterance_id)
        return died


def concurrent_calls(stages: Sequence[Stage], rows: pa.ChunkedArray) -> int:
    """Batches that a worker takes at a time: those that fill its engine, as many to follow, and one that is stored."""
    rows_at_a_time = min(stage.rows_at_a_time for stage in stages)
    if not rows_at_a_time:
        return 1
    small = pc.quantile(rows, SMALL_BATCH_QUANTILE)[0].as_py()
    return min(MAX_CALLS, 1 + math.ceil(2 * rows_at_a_time / small))


def _consume(operator: StageOperator, batch: pa.Table) -> None:
    for _ in operator(batch):
        pass


def _row_schema(later: Sequence[Stage], types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Schema of the rows that go to the later operators: utterances, what is to do, and the inputs that they read."""
    fields = [*UTTERANCES, pa.field(LACKING, pa.list_(pa.string())), pa.field(BATCH, pa.int32())]
    fields += [pa.field(name, types[name]) for name in required_inputs(later)]
    if any(map(needs_waveform, later)):
        fields.append(pa.field(WAVEFORM, pa.binary()))
    return pa.schema(fields)


def _to_rows(table: pa.Table) -> list[Row]:
    rows: list[Row] = table.to_pylist()
    for row in rows:
        if row.get(WAVEFORM) is not None:
            row[WAVEFORM] = np.frombuffer(row[WAVEFORM], np.float32)
    return rows


def _to_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    if WAVEFORM in schema.names:
        rows = [row | {WAVEFORM: None if row.get(WAVEFORM) is None else row[WAVEFORM].tobytes()} for row in rows]
    return pa.Table.from_pylist(rows, schema)


def _outcome_table(stage: Stage, outcomes: list[RowOutcome]) -> pa.Table:
    schema = stage_schema(stage.value_type)
    try:
        return pa.Table.from_pylist([outcome.as_row() for outcome in outcomes], schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        if len(outcomes) == 1:
            record = {
                "type": "bad_value",
                "message": f"stage {stage.name!r} gave a value of the wrong type: {error}",
                "attempts": 1,
            }
            refused = RowOutcome(outcomes[0].utterance_id, None, record, outcomes[0].elapsed_s)
            return pa.Table.from_pylist([refused.as_row()], schema)
        return pa.concat_tables([_outcome_table(stage, [outcome]) for outcome in outcomes])
