"""Configuration of `emoray protocol`."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from emoray.config import Section


class ProtocolConfig(Section):
    """Which trials a protocol has, and how they share a cluster.

    A trial trains in one process: results do not depend on the number of workers. `train.workers=0` runs the trials in
    the caller's process, one after another, without Ray.

    Attributes:
        seeds: Seeds; each trains once per fold, or once where the corpus has its own partitions.
        cpus_per_trial: Cores that a trial reserves.
        gpus_per_trial: Share of a GPU that a trial reserves where `train.gpu` is on.
        max_parallel: Trials at once at most; null for as many as there is room for.
        max_failures: Deaths of its process that a trial survives by going on from its last checkpoint.
    """

    seeds: tuple[NonNegativeInt, ...]
    cpus_per_trial: PositiveFloat
    gpus_per_trial: PositiveFloat
    max_parallel: PositiveInt | None
    max_failures: NonNegativeInt
