"""Which machines there are: those of the Ray that this process has joined, or this one as a local Ray would take it."""

from __future__ import annotations

import functools
import logging
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoray_jobs.config import ClusterConfig

log = logging.getLogger(__name__)

ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class NodeResources:
    """A machine.

    Attributes:
        kind: Its processor.
        gpu_kind: Its GPU, None without.
        cpus: Cores that Ray may use.
        memory_bytes: Memory that Ray may give away.
    """

    kind: str
    gpu_kind: str | None
    cpus: float
    gpus: int
    memory_bytes: int


@dataclass(frozen=True)
class ClusterResources:
    """What a cluster has."""

    nodes: tuple[NodeResources, ...]

    @property
    def cpus(self) -> float:
        """All cores."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return sum(node.gpus for node in self.nodes)

    @property
    def memory_bytes(self) -> int:
        """All memory."""
        return sum(node.memory_bytes for node in self.nodes)

    def kinds(self, gpus: int) -> dict[str, float]:
        """Kinds of machine that a worker with so many GPUs may find itself on (see `machines.kind`), by their share."""
        names = [(node.kind, node.cpus) for node in self.nodes if node.cpus]
        if gpus:
            several = f"{gpus}x" if gpus > 1 else ""
            names = [(f"{several}{node.gpu_kind}", float(node.gpus)) for node in self.nodes if node.gpus >= gpus]
        total = sum(number for _, number in names)
        shares: dict[str, float] = {}
        for name, number in names:
            shares[name] = shares.get(name, 0.0) + number / total
        return shares


def local_resources(config: ClusterConfig) -> ClusterResources:
    """What a Ray of this machine's own would have; it is not started."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    # What `ray.init` does with the same arguments, so that the plan and the run agree.
    found = ResourceAndLabelSpec(num_cpus=config.num_cpus, object_store_memory=config.object_store_mib * 2**20)
    return ClusterResources((_node(found.resolve(is_head=True).to_resource_dict(), processor()),))


def cluster_resources() -> ClusterResources:
    """What the Ray has that this process is connected to."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    # Machines with the same resources are taken to be of one kind, and one of them is asked.
    asked = {_shape(node): node["NodeID"] for node in alive if node["NodeID"] != own}
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    task = ray.remote(num_cpus=0)(processor)
    answers = {
        shape: task.options(scheduling_strategy=there(node, soft=True)).remote() for shape, node in asked.items()
    }
    kinds = dict(zip(answers, ray.get(list(answers.values())), strict=True))
    return ClusterResources(
        tuple(_node(node["Resources"], processor() if node["NodeID"] == own else kinds[_shape(node)]) for node in alive)
    )


def spilled_bytes() -> int | None:
    """What the object stores of the joined Ray have written to disk so far; None if they do not say."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    # Ray Data's own statistics read the same counter; there is no public door to it.
    try:
        reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    except Exception as error:
        log.info("cannot read how much was spilled: %s", error)
        return None
    return int(reply.store_stats.spilled_bytes_total)


@functools.cache
def kind_of_worker() -> tuple[str, bool]:
    """Kind of machine that this Ray worker runs on, as `ClusterResources.kinds` names it, and whether that is a GPU."""
    import ray

    context = ray.get_runtime_context()
    gpus = len(context.get_accelerator_ids().get("GPU", []))
    if not gpus:
        return processor(), False
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    name = str(_accelerator(resources))
    return (f"{gpus}x{name}" if gpus > 1 else name), True


def processor() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _node(resources: dict[str, Any], kind: str) -> NodeResources:
    return NodeResources(
        kind=kind,
        gpu_kind=_accelerator(resources) if resources.get("GPU") else None,
        cpus=float(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
    )


def _accelerator(resources: dict[str, Any]) -> str:
    names = [name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)]
    return names[0] if names else "GPU"


def _shape(node: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    ignored = ("node:", "memory", "object_store_memory")
    return tuple(sorted((name, value) for name, value in node["Resources"].items() if not name.startswith(ignored)))
