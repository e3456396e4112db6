"""Configuration of how a training is spread over a cluster."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from emoray.config import Section


class LaunchConfig(Section):
    """How a training is spread over a cluster; changes no result. The number of workers is `train.workers`.

    Attributes:
        cpus_per_worker: Cores that a training worker reserves; less than one leaves the data some of a small machine.
        cpus_per_data_task: Cores that a task which collates batches reserves.
        max_failures: Worker deaths that a run survives by restarting from its last checkpoint.
        keep_checkpoints: Checkpoints to keep of a run.
        stop_s: How long SIGTERM or Ctrl-C waits for Ray's workers to checkpoint; less than the scheduler waits before
            it kills.
        steps_per_task: Steps that one task collates.
        tasks_ahead: Tasks whose steps are collated ahead of a worker: what its batches fill of the object store.
    """

    cpus_per_worker: PositiveFloat
    cpus_per_data_task: PositiveFloat
    max_failures: NonNegativeInt
    keep_checkpoints: PositiveInt
    stop_s: PositiveFloat
    steps_per_task: PositiveInt
    tasks_ahead: PositiveInt
