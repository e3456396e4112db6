"""What a phase will need: its pools, and its time where its stages' costs were measured. For runs and `--plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from emoray.audio.io import AUDIO_HZ
from emoray.lake.tables import Lake
from emoray.stages.base import Stage
from emoray.stages.config import AnnotateConfig
from emoray.stages.decode import Decode
from emoray_jobs.cluster.hardware import ClusterResources
from emoray_jobs.pipeline.costs import Cost, load_costs
from emoray_jobs.pipeline.pending import PendingWork, needs_waveform
from emoray_jobs.pipeline.pools import Pool, PoolDemand, gpus_of_worker, group_stages, phase_duration_s, size_pools

#: Memory that a task with waveforms asks for: the interpreter with its libraries, and some copies of a batch's audio.
TASK_BASE_BYTES = 384 * 2**20
AUDIO_COPIES = 6


@dataclass(frozen=True)
class WorkEstimate:
    """What a phase will need.

    Attributes:
        pools: Its pools, in order of the flow.
        work_s: Seconds of work of each stage that runs (of a core, or of a worker with its GPU); None where unknown.
        measured_rows: How many rows that rests on, by stage.
        seconds: How long the phase takes; None where a stage's cost is unknown.
    """

    pools: list[Pool]
    work_s: dict[str, float | None]
    measured_rows: dict[str, float]
    seconds: float | None


def estimate_work(lake: Lake, work: PendingWork, machines: ClusterResources, config: AnnotateConfig) -> WorkEstimate:
    """Plan a phase.

    Raises:
        ConfigError: A stage needs more GPUs than there are.
    """
    groups = group_stages(work.active_stages())
    gpus = [gpus_of_worker(group, machines) for group in groups]
    batches = _batches(work.rows, config)
    while True:
        costs: dict[str, Cost] = {}
        for group, number in zip(groups, gpus, strict=True):
            costs |= costs_on(lake, group, machines.kinds(number))
        demands = [_demand(group, number, work, costs, config) for group, number in zip(groups, gpus, strict=True)]
        pools = size_pools(demands, machines, batches)
        granted = [number if pool.gpus else 0 for number, pool in zip(gpus, pools, strict=True)]
        if granted == gpus:
            break
        gpus = granted  # Some pool was left to the cores, where its stages cost something else.
    return WorkEstimate(
        pools=pools,
        work_s={stage.name: _work_s(stage, work, costs) for group in groups for stage in group},
        measured_rows={name: cost.rows for name, cost in costs.items()},
        seconds=phase_duration_s(demands, pools, machines) if pools else 0.0,
    )


def _batches(rows: pl.DataFrame, config: AnnotateConfig) -> int:
    by_rows = -(-rows.height // config.batch_rows)
    return max(by_rows, int(-(-float(rows["seconds"].sum()) // config.batch_audio_s)))


def costs_on(lake: Lake, stages: Sequence[Stage], kinds: Mapping[str, float]) -> dict[str, Cost]:
    """Costs of stages over kinds of machine, each counting as its share; those that nobody measured count nothing."""
    found = [(share, load_costs(lake, stages, kind)) for kind, share in kinds.items()]
    mixed = {}
    for stage in stages:
        known = [(share, costs[stage.name]) for share, costs in found if stage.name in costs]
        total = sum(share for share, _ in known)
        if total:
            mixed[stage.name] = Cost(
                per_row_s=sum(share * cost.per_row_s for share, cost in known) / total,
                per_audio_s=sum(share * cost.per_audio_s for share, cost in known) / total,
                start_s=max(cost.start_s for _, cost in known),
                peak_bytes=max(cost.peak_bytes for _, cost in known),
                rows=sum(cost.rows for _, cost in known),
                tokens_read=sum(share * cost.tokens_read for share, cost in known) / total,
                tokens_written=sum(share * cost.tokens_written for share, cost in known) / total,
            )
    return mixed


def _work_s(stage: Stage, work: PendingWork, costs: Mapping[str, Cost]) -> float | None:
    if stage.name not in costs:
        return None
    # A stage that reads the waveform decodes the clip again, even if `decode` has an outcome.
    rows = work.rows if stage.name == Decode.name else work.missing(stage.name)
    return costs[stage.name].work_s(rows.height, float(rows["seconds"].sum()))


def _demand(
    group: Sequence[Stage], gpus: int, work: PendingWork, costs: Mapping[str, Cost], config: AnnotateConfig
) -> PoolDemand:
    known = [cost for stage in group if (cost := costs.get(stage.name))]
    works = [_work_s(stage, work, costs) for stage in group]
    memory_bytes = max((cost.peak_bytes for cost in known), default=0)
    uses_actors = group[0].resources == "actor"
    if not uses_actors:
        heard = any(needs_waveform(stage) or stage.name == Decode.name for stage in group)
        memory_bytes = TASK_BASE_BYTES + int(config.batch_audio_s * AUDIO_HZ * 4 * AUDIO_COPIES) if heard else 0
    return PoolDemand(
        stages=tuple(stage.name for stage in group),
        uses_actors=uses_actors,
        gpus=gpus,
        waits=all(stage.waits for stage in group),
        work_s=None if None in works else sum(one for one in works if one is not None),
        start_s=sum(cost.start_s for cost in known),
        memory_bytes=memory_bytes,
    )
