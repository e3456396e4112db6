"""--calibrate: measure stages on a few utterances, on the machines and with the GPUs that a run would use.

Each pool's stages run in a separate process, one pool after the other. Norms are fitted to the sample: for the
cost of a stage they need not be the corpus's. Nothing is written but the costs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl
import pyarrow as pa
import ray

from emoray.errors import ServiceError, StageError
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray.stages.base import Row, Stage
from emoray.stages.config import AnnotateConfig
from emoray.stages.guard import GuardConfig
from emoray.stages.norms import Norms
from emoray_jobs.cluster import hardware
from emoray_jobs.cluster.hardware import ClusterResources
from emoray_jobs.cluster.session import session
from emoray_jobs.config import ClusterConfig
from emoray_jobs.pipeline import costs
from emoray_jobs.pipeline.costs import CostSums, run_measured
from emoray_jobs.pipeline.pools import gpus_of_worker, group_stages
from emoray_jobs.progress import track

SEED = 0


def measure_sample(
    lake: Lake,
    cluster: ClusterConfig,
    annotate: AnnotateConfig,
    utterances: pa.Table,
    wanted: Collection[str],
    *,
    sample_rows: int,
) -> None:
    """Measure stages and lay their costs down in the lake. Stages that they read run too.

    Raises:
        StageError: Nothing in the sample could be measured.
        ServiceError: The process that measured died.
    """
    rows = _sample(utterances, sample_rows)
    audio = pipeline.audio_stages(annotate, lake.config.storage_options)
    done = 0
    with session(cluster, lake.config), track("measuring stages on a sample", "stages") as advance:
        there = hardware.cluster_resources()
        phase: list[Stage] = audio
        for _ in range(2):
            for group in group_stages(phase):
                rows = _measured(lake, annotate.guard, there, group, rows, wanted)
                done += len(group)
                advance(done, done)
            if not any(stage.name in wanted for stage in pipeline.text_stages(annotate, None)):
                return
            phase = pipeline.text_stages(annotate, Norms.fit(iter(rows), annotate.norms))


def _measured(
    lake: Lake,
    guard: GuardConfig,
    there: ClusterResources,
    group: Sequence[Stage],
    rows: list[Row],
    wanted: Collection[str],
) -> list[Row]:
    task = ray.remote(num_cpus=min(1.0, there.cpus), num_gpus=gpus_of_worker(group, there), max_calls=1)(_run)
    try:
        rows, kind, work = ray.get(task.remote(list(group), rows, guard))
    except ray.exceptions.RayError as error:
        names = ", ".join(stage.name for stage in group)
        raise ServiceError(
            f"the process that measured {names} died: {error}",
            remedy="Run it with --debug; a smaller plan.calibrate_rows needs less memory",
            kind="calibration_failed",
        ) from error
    for stage in group:
        if stage.name in wanted:
            if not work[stage.name].rows:
                raise StageError(
                    f"no utterance of the sample got through stage {stage.name!r}",
                    remedy="Annotate some rows first: the stage tables then say what is wrong with them",
                    kind="calibration_failed",
                )
            costs.add_measurement(lake, stage, kind, work[stage.name])
    return rows


def _run(stages: list[Stage], rows: list[Row], guard: GuardConfig) -> tuple[list[Row], str, dict[str, CostSums]]:
    """In a worker: a first batch that loads what the stages need, then a batch of short clips and one of long ones."""
    kind, on_gpu = hardware.kind_of_worker()
    rows = sorted(rows, key=costs.seconds_of)
    third = -(-len(rows) // 3)
    batches = [rows[third : 2 * third], rows[:third], rows[2 * third :]]
    work = dict.fromkeys((stage.name for stage in stages), CostSums())
    for batch in filter(None, batches):
        for stage in stages:
            work[stage.name] += run_measured(stage, batch, guard, kind, on_gpu=on_gpu)[1]
    return rows, kind, work


def _sample(utterances: pa.Table, size: int) -> list[Row]:
    ids = pl.DataFrame({"utterance_id": pl.from_arrow(utterances["utterance_id"])}).with_row_index("row")
    drawn = ids.sample(min(size, ids.height), seed=SEED)["row"].sort()
    rows: list[Row] = utterances.take(drawn.to_arrow()).to_pylist()
    return rows
