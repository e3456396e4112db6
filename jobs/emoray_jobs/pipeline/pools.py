"""How many workers each pool of a phase gets, and how long the phase then takes. Pure arithmetic, no Ray.

Cores: a pool's share of them is its share of the work, rounded up. All pools then end together, and no core is idle as
long as one of them has work. Pools whose cost nobody measured may have as many workers as there are cores: Ray Data
finds out how many they need. A pool that waits for an endpoint takes no cores and has one worker, whose client keeps
the limit on requests for the whole phase.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emoray.errors import ConfigError
from emoray.stages.base import Stage
from emoray_jobs.cluster.hardware import ClusterResources

#: Cores that an actor of a pool asks for. It keeps them while it waits for work: with whole ones, the pools of several
#: runs on a small cluster would keep the tasks that feed them from ever starting.
ACTOR_CPUS = 0.25
#: Batches that make it worth to load a pool's weights once more.
BATCHES_PER_ACTOR = 4


@dataclass(frozen=True)
class PoolDemand:
    """What a pool has to do in a phase.

    Attributes:
        stages: Names of its stages.
        uses_actors: Actors, that is, not tasks.
        gpus: GPUs of one worker, where there are any: 1, or several for tensor parallelism.
        waits: Its work is done elsewhere, behind an endpoint.
        work_s: Seconds of work, of a core or of a worker with its GPUs; None where it was not measured.
        start_s: Seconds until a worker is ready.
        memory_bytes: Memory of one worker; 0 where nothing is known.
    """

    stages: tuple[str, ...]
    uses_actors: bool
    gpus: int
    waits: bool
    work_s: float | None
    start_s: float
    memory_bytes: int


@dataclass(frozen=True)
class Pool:
    """Workers that run neighbouring stages.

    Attributes:
        stages: Names of the stages.
        uses_actors: Actors, that is, not tasks.
        workers: How many at a time, at most.
        cpus: Cores that one asks Ray for (when it works it uses one).
        gpus: GPUs that one asks Ray for.
        memory_bytes: Memory that one asks Ray for; 0 for none.
        fixed: It starts with all workers and keeps them; otherwise Ray Data finds out how many of them it needs.
    """

    stages: tuple[str, ...]
    uses_actors: bool
    workers: int
    cpus: float
    gpus: float
    memory_bytes: int
    fixed: bool

    @property
    def name(self) -> str:
        """Its stages."""
        return "+".join(self.stages)


def group_stages(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages that share workers: neighbouring tasks, and neighbouring stages with the same weights."""
    groups = itertools.groupby(stages, lambda stage: stage.resources == "actor" and (stage.weights or stage.name))
    return [list(group) for _, group in groups]


def gpus_of_worker(stages: Sequence[Stage], machines: ClusterResources) -> int:
    """GPUs that a worker of a pool gets: those that its stages want, 0 where the cluster has none.

    Raises:
        ConfigError: A stage needs more than any machine has.
    """
    wanted = max(stage.gpus if stage.resources == "actor" else 0 for stage in stages)
    if not machines.gpus or not wanted:
        return 0
    most = max(node.gpus for node in machines.nodes)
    if wanted > most:
        raise ConfigError(
            f"stage {stages[0].name!r} needs {wanted} GPUs for one worker, and no machine has more than {most}",
            remedy="Lower its tensor parallelism, or join a cluster with larger machines",
            kind="too_few_gpus",
        )
    return wanted


def size_pools(demands: Sequence[PoolDemand], machines: ClusterResources, batches: int) -> list[Pool]:
    """Workers of each pool of a phase, in the order of the demands.

    All pools together ask for no more than there is, and each has at least one worker that can start whatever the
    others use: a task asks for no more than what the fullest cluster must have free on some machine. That holds when
    machines are lost too: all actors and a task fit on the smallest machine, wherever Ray restarts them.

    Args:
        demands: The pools, in order of the flow; `gpus` as `gpus_of_worker` says.
    """
    gpu_workers = _on_gpus(demands, machines, batches)
    on_cores = [place for place in range(len(demands)) if place not in gpu_workers and not demands[place].waits]
    measured = all(demands[place].work_s is not None for place in on_cores)
    workers = {place: 1 for place in range(len(demands)) if demands[place].waits}
    workers |= {place: number for place, (number, _) in gpu_workers.items()}
    total_s = sum(demands[place].work_s or 0.0 for place in on_cores)
    for place in on_cores:
        share = (demands[place].work_s or 0.0) / total_s if measured and total_s else 1.0
        if not measured and not demands[place].uses_actors:
            share = 1 / sum(not demands[one].uses_actors for one in on_cores)
        # A hair less than a whole worker is rounding error.
        most = batches
        if demands[place].uses_actors:
            most = min(_max_actors_by_batches(batches), _max_actors_by_startup(demands[place]))
        workers[place] = max(1, min(most, math.ceil(share * machines.cpus - 1e-6)))
    _fit_memory(demands, workers, machines)
    actors = sum(number for place, number in workers.items() if demands[place].uses_actors)
    smallest_cpus = min((node.cpus for node in machines.nodes if node.cpus), default=0.0)
    smallest_bytes = min((node.memory_bytes for node in machines.nodes if node.cpus), default=0)
    actor_cpus = _floor(min(ACTOR_CPUS, smallest_cpus / 2 / actors)) if actors else 0.0
    tasks = sum(number for place, number in workers.items() if not demands[place].uses_actors)
    places = sum(node.cpus > 0 for node in machines.nodes)
    held = actors * actor_cpus
    task_cpus = _floor(min(1.0, smallest_cpus - held, (machines.cpus - held) / max(tasks, places)))
    return [
        Pool(
            stages=demand.stages,
            uses_actors=demand.uses_actors,
            workers=workers[place],
            cpus=actor_cpus if demand.uses_actors else task_cpus,
            gpus=gpu_workers[place][1] if place in gpu_workers else 0.0,
            # Actors are counted, not charged: what they keep must not lock out the tasks that feed them.
            memory_bytes=0
            if demand.uses_actors
            else min(demand.memory_bytes, smallest_bytes, machines.memory_bytes // max(tasks, places)),
            fixed=measured or demand.waits or place in gpu_workers,
        )
        for place, demand in enumerate(demands)
    ]


def phase_duration_s(demands: Sequence[PoolDemand], pools: Sequence[Pool], machines: ClusterResources) -> float | None:
    """How long a phase takes: the longest of its pools, its cores and its GPUs, and the start of the slowest worker.

    None where a pool was not measured. Ray's own start and what it costs to move rows are not in it.
    """
    pairs = list(zip(demands, pools, strict=True))
    if any(demand.work_s is None for demand, _ in pairs):
        return None
    longest_s = [(demand.work_s or 0.0) / pool.workers for demand, pool in pairs]
    on_cores_s = sum(demand.work_s or 0.0 for demand, pool in pairs if not (pool.gpus or demand.waits))
    longest_s.append(on_cores_s / machines.cpus)
    # Workers with less than a GPU share it with those of the other pools.
    sharing = [(demand.work_s or 0.0, pool.workers) for demand, pool in pairs if 0 < pool.gpus < 1]
    if sharing:
        longest_s.append(sum(work_s for work_s, _ in sharing) / max(workers for _, workers in sharing))
    return max(longest_s) + max(demand.start_s for demand, _ in pairs)


def _on_gpus(demands: Sequence[PoolDemand], machines: ClusterResources, batches: int) -> dict[int, tuple[int, float]]:
    """Workers and GPUs of one worker, for the pools that get any: place → (number, GPUs).

    Pools of one GPU share those that they have in equal parts, one worker of each per GPU: whichever has work uses it.
    Workers of several GPUs need them for themselves, on one machine; one GPU is kept back for the others if it can be.
    """
    wide = {place: demand.gpus for place, demand in enumerate(demands) if demand.gpus > 1}
    narrow = [place for place, demand in enumerate(demands) if demand.gpus == 1]
    free = [node.gpus for node in machines.nodes]
    found: dict[int, tuple[int, float]] = {}
    # Each wide pool gets one worker, then the one that would end last another, until none fits.
    waiting = sorted(wide, key=lambda place: -wide[place])
    while True:
        place = (
            waiting.pop(0) if waiting else _bottleneck(demands, {one: found[one][0] for one in wide if one in found})
        )
        if place is None:
            break
        hosts = [number for number, gpus in enumerate(free) if gpus >= wide[place]]
        spare = sum(free) - wide[place]
        already = found.get(place, (0, 0.0))[0]
        if not hosts or (already and ((narrow and spare < 1) or already >= _max_actors_by_batches(batches))):
            if not already:
                raise ConfigError(
                    f"the pools of this phase want more GPUs than there are: {sum(wide.values())} of {machines.gpus}",
                    remedy="Lower the tensor parallelism of a stage, or join a larger cluster",
                    kind="too_few_gpus",
                )
            break
        free[max(hosts, key=lambda number: free[number])] -= wide[place]
        found[place] = (already + 1, float(wide[place]))
    if narrow and sum(free):
        workers = min(sum(free), _max_actors_by_batches(batches))
        found |= {place: (workers, _floor(1 / len(narrow))) for place in narrow}
    return found


def _bottleneck(demands: Sequence[PoolDemand], workers: Mapping[int, int]) -> int | None:
    if not workers:
        return None
    if any(demands[place].work_s is None for place in workers):
        return min(workers, key=lambda place: workers[place])
    return max(workers, key=lambda place: (demands[place].work_s or 0.0) / workers[place])


def _max_actors_by_batches(batches: int) -> int:
    return max(1, batches // BATCHES_PER_ACTOR)


def _max_actors_by_startup(demand: PoolDemand) -> int:
    """Workers on cores, each of which brings more work than its start costs: both are done by the same cores."""
    if demand.work_s is None or not demand.start_s:
        return sys.maxsize
    return max(1, int(demand.work_s / demand.start_s))


def _fit_memory(demands: Sequence[PoolDemand], workers: dict[int, int], machines: ClusterResources) -> None:
    """Take workers from the pool that uses most memory until all fit, or each has one."""
    while sum(demands[place].memory_bytes * number for place, number in workers.items()) > machines.memory_bytes:
        several = [place for place, number in workers.items() if number > 1 and demands[place].memory_bytes]
        if not several:
            break
        workers[max(several, key=lambda place: demands[place].memory_bytes * workers[place])] -= 1


def _floor(number: float) -> float:
    """Ray counts in ten-thousandths."""
    return math.floor(number * 10_000 + 1e-6) / 10_000
