"""The planner: what every plan must keep to, and plans worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoray.errors import ConfigError
from emoray_jobs.cluster.hardware import ClusterResources, NodeResources
from emoray_jobs.pipeline.pools import PoolDemand, phase_duration_s, size_pools

GIB = 2**30


def demand(
    name: str,
    work_s: float | None,
    *,
    uses_actors: bool = False,
    gpus: int = 0,
    waits: bool = False,
    gib: float = 0.5,
) -> PoolDemand:
    return PoolDemand((name,), uses_actors, gpus, waits, work_s, 0.0, int(gib * GIB))


def machines(*cores: float, gpus: tuple[int, ...] = (), gib: int = 64) -> ClusterResources:
    gpus = gpus or (0,) * len(cores)
    return ClusterResources(
        tuple(
            NodeResources("cpu", "H100" if number else None, cpus, number, gib * GIB)
            for cpus, number in zip(cores, gpus, strict=True)
        )
    )


work = st.none() | st.floats(0, 1e7)
demands = st.lists(
    st.builds(
        lambda work_s, gpus, waits, gib: PoolDemand(
            ("s",), gpus is not None, gpus or 0, waits and gpus == 0, work_s, 1.0, int(gib * GIB)
        ),
        work,
        st.none() | st.integers(0, 1),
        st.booleans(),
        st.floats(0, 8),
    ),
    min_size=1,
    max_size=5,
)
nodes = st.lists(
    st.builds(
        lambda cpus, gpus, gib: NodeResources("cpu", "H100" if gpus else None, float(cpus), gpus, gib * GIB),
        st.integers(1, 64),
        st.integers(0, 8),
        st.integers(1, 512),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(demands, nodes, st.integers(1, 100_000))
def test_every_plan_fits_feeds_every_pool_and_cannot_deadlock(wanted, found, batches):
    there = ClusterResources(tuple(found))
    wanted = [dataclasses.replace(one, gpus=one.gpus if there.gpus else 0) for one in wanted]
    pools = size_pools(wanted, there, batches)
    assert all(pool.workers >= 1 and pool.cpus > 0 for pool in pools)
    assert all(pool.workers == 1 for one, pool in zip(wanted, pools, strict=True) if one.waits)
    assert sum(pool.workers * pool.cpus for pool in pools) <= there.cpus + 1e-6
    assert sum(pool.workers * pool.gpus for pool in pools) <= there.gpus + 1e-6
    tasks = [pool for pool in pools if not pool.uses_actors]
    assert sum(pool.workers * pool.memory_bytes for pool in tasks) <= there.memory_bytes
    # Wherever the actors came to lie, some machine has room for a task.
    held = sum(pool.workers * pool.cpus for pool in pools if pool.uses_actors)
    assert all(pool.cpus <= (there.cpus - held) / len(found) + 1e-6 for pool in tasks)
    assert all(pool.memory_bytes <= there.memory_bytes / len(found) for pool in tasks)
    # …also where machines are lost, and Ray restarts all actors on the smallest.
    smallest_cpus, smallest_bytes = min(node.cpus for node in found), min(node.memory_bytes for node in found)
    assert all(held + pool.cpus <= smallest_cpus + 1e-6 and pool.memory_bytes <= smallest_bytes for pool in tasks)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=5), st.integers(1, 512))
def test_no_pool_holds_up_the_others(costs, cores):
    """With workers enough, a phase takes what its work takes on all cores, however the work is spread."""
    there = machines(float(cores), gib=100_000)
    wanted = [demand(str(place), cost, uses_actors=place % 2 == 1) for place, cost in enumerate(costs)]
    pools = size_pools(wanted, there, batches=10**9)
    assert phase_duration_s(wanted, pools, there) == pytest.approx(sum(costs) / cores, rel=1e-5)
    for one, pool in zip(wanted, pools, strict=True):
        # …and none has a whole worker more than its share.
        assert pool.workers < max(1.0, one.work_s / sum(costs) * cores) + 1


def test_cores_follow_the_work():
    there = machines(16.0)
    light, recogniser = demand("decode", 1000.0), demand("transcribe", 7000.0, uses_actors=True)
    pools = size_pools([light, recogniser], there, batches=1000)
    assert [pool.workers for pool in pools] == [2, 14]
    assert phase_duration_s([light, recogniser], pools, there) == 500.0
    # Loading the weights 14 times is not worth it for 20 batches.
    few = size_pools([light, recogniser], there, batches=20)
    assert [pool.workers for pool in few] == [2, 5]
    assert phase_duration_s([light, recogniser], few, there) == 1400.0


def test_a_worker_on_cores_brings_more_work_than_its_start_costs():
    there = machines(8.0)
    encoder = PoolDemand(("embed",), uses_actors=True, gpus=0, waits=False, work_s=25.0, start_s=10.0, memory_bytes=GIB)
    assert [pool.workers for pool in size_pools([encoder], there, batches=1000)] == [2]
    # A GPU that loads keeps no other from working.
    gpu = PoolDemand(("embed",), uses_actors=True, gpus=1, waits=False, work_s=25.0, start_s=10.0, memory_bytes=GIB)
    assert [pool.workers for pool in size_pools([gpu], machines(8.0, gpus=(4,)), batches=1000)] == [4]


def test_waiting_for_an_endpoint_takes_no_cores():
    there = machines(16.0)
    light, asks = demand("decode", 1600.0), demand("semantics", 500.0, uses_actors=True, waits=True)
    pools = size_pools([light, asks], there, batches=1000)
    assert [(pool.workers, pool.fixed) for pool in pools] == [(16, True), (1, True)]
    assert phase_duration_s([light, asks], pools, there) == 500.0
    # What nobody measured of it is no reason to guess at the others.
    pools = size_pools([light, dataclasses.replace(asks, work_s=None)], there, batches=1000)
    assert [(pool.workers, pool.fixed) for pool in pools] == [(16, True), (1, True)]


def test_what_was_not_measured_is_not_guessed():
    there = machines(8.0)
    wanted = [demand("decode", 10.0), demand("transcribe", None, uses_actors=True)]
    pools = size_pools(wanted, there, batches=1000)
    assert [(pool.workers, pool.fixed) for pool in pools] == [(8, False), (8, False)]
    assert phase_duration_s(wanted, pools, there) is None


def test_pools_of_one_gpu_share_every_gpu():
    there = machines(16.0, 16.0, gpus=(1, 1))
    wanted = [
        demand("emphasis", 10.0),
        demand("semantics", 9000.0, uses_actors=True, gpus=1),
        demand("embed", 1000.0, uses_actors=True, gpus=1),
    ]
    pools = size_pools(wanted, there, batches=1000)
    assert [(pool.workers, pool.gpus) for pool in pools] == [(32, 0.0), (2, 0.5), (2, 0.5)]
    assert phase_duration_s(wanted, pools, there) == 5000.0


def test_wide_workers_get_gpus_of_one_machine():
    there = machines(64.0, 64.0, gpus=(4, 3))
    wide, narrow = (
        demand("semantics", 9000.0, uses_actors=True, gpus=2),
        demand("embed", 10.0, uses_actors=True, gpus=1),
    )
    # 2 + 2 on the first machine, 2 on the second; its third is left to the narrow pool.
    assert [(pool.workers, pool.gpus) for pool in size_pools([wide, narrow], there, 1000)] == [(3, 2.0), (1, 1.0)]
    # On two GPUs the wide one takes both: the narrow one runs on cores.
    small = size_pools([wide, narrow], machines(8.0, gpus=(2,)), 1000)
    assert [(pool.workers, pool.gpus) for pool in small] == [(1, 2.0), (8, 0.0)]
    with pytest.raises(ConfigError, match="want more GPUs than there are: 4 of 3"):
        size_pools([wide, wide], machines(8.0, gpus=(3,)), 1000)


def test_memory_bounds_the_workers():
    there = machines(16.0, gib=24)
    wanted = [demand("decode", 1.0), demand("transcribe", 100.0, uses_actors=True, gib=4)]
    assert [pool.workers for pool in size_pools(wanted, there, 1000)] == [1, 5]
