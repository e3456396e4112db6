"""What a training worker does, on Ray Train or in the caller's process: `emoray.training.fit`, with checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import torch

from emoray.errors import StoppedError, TrainingError
from emoray.lake.tables import Lake
from emoray.training.build import build_learner
from emoray.training.checkpoint import Checkpoint, prune
from emoray.training.data.loader import Loader, LocalLoader
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import Callbacks, DevEvaluation, FitResult, Metrics, fit, last_epoch
from emoray_jobs.train import metric_journal
from emoray_jobs.train.local import device_here, torch_threads
from emoray_jobs.train.run_spec import RunSpec

#: In a run's folder: why its workers stopped, where a restart would not help.
ERROR = "error.json"
#: In a run's folder: the driver asks to stop. Rank 0 checks for it this often.
STOP = "stop.json"
LOOK_LOCAL_S = 0.3
LOOK_REMOTE_S = 5.0


def train_here(
    assignment: RunSpec,
    on_checkpoint: Callable[[Checkpoint], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Train in this process, on one device, without Ray.

    Raises:
        StoppedError: `should_stop`, which is called after each step, was true; the checkpoint is stored.
    """
    training_set = open_training_set(assignment)
    device = device_here(assignment.launch)
    with torch_threads(assignment.launch.threads):
        loader = LocalLoader(training_set, assignment.train)
        return _train(assignment, training_set, loader, device, on_checkpoint, should_stop)


def train_on_worker(config: dict[str, Any]) -> None:
    """Train as one of several Ray Train workers. Ray Train calls this on each, and again on all after a worker's death.

    Args:
        config: {"assignment": …}.
    """
    import ray.train
    import ray.train.torch

    from emoray_jobs.train.ray_loader import RayBatchLoader

    assignment: RunSpec = config["assignment"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    training_set = open_training_set(assignment)
    loader = RayBatchLoader(assignment, rank, world)

    def report(checkpoint: Checkpoint) -> None:
        ray.train.report(
            {"step": checkpoint.step, "best_score": checkpoint.best_score, "best_epoch": checkpoint.best_epoch}
        )

    torch.set_num_threads(assignment.launch.threads)
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL's collectives of objects go through the current device
    # The others need not look: all workers agree after each step.
    should_stop = _poll_stop_file(assignment) if rank == 0 else lambda: False
    try:
        _train(assignment, training_set, loader, device, report, should_stop)
    except StoppedError:
        return  # the driver, which asked for it, says so
    except TrainingError as error:
        # All workers stop alike, and would again: no reason to restart them, as Ray Train would. The driver raises it.
        if rank == 0:
            failure = {"what": error.what, "where": error.where, "remedy": error.remedy, "kind": error.kind}
            Lake(assignment.lake).write_json(failure, "checkpoints", assignment.run, ERROR)


def _poll_stop_file(assignment: RunSpec) -> Callable[[], bool]:
    """A function that says whether the run should stop. It checks the folder only now and then."""
    lake = Lake(assignment.lake)
    pause = LOOK_LOCAL_S if lake.is_local else LOOK_REMOTE_S
    looked = time.monotonic()

    def asked() -> bool:
        nonlocal looked
        if time.monotonic() - looked < pause:
            return False
        looked = time.monotonic()
        lake.fs.invalidate_cache()
        return lake.exists("checkpoints", assignment.run, STOP)

    return asked


def open_training_set(assignment: RunSpec) -> TrainingSet:
    """The packed training set of a run, with the splits of its fold."""
    lake = Lake(assignment.lake)
    opened = TrainingSet.open(lake, assignment.training_set, assignment.launch.cache_dir, assignment.model.classes)
    return opened if assignment.fold is None else opened.of_fold(assignment.fold)


def _train(
    assignment: RunSpec,
    training_set: TrainingSet,
    loader: Loader,
    device: torch.device | str,
    on_checkpoint: Callable[[Checkpoint], None],
    should_stop: Callable[[], bool],
) -> FitResult:
    lake, config = Lake(assignment.lake), assignment.train
    with lake.fs.open(lake.path(assignment.plan)) as file:
        plan = pq.read_table(file)
    ids = training_set.ids("train")
    learner = build_learner(
        training_set, ids, assignment.model, config, assignment.launch, total_steps=plan.num_rows, device=device
    )

    times_ms: dict[int, int] = {}

    def note_time(step: int, _metrics: Metrics) -> None:
        times_ms[step] = metric_journal.now_ms()

    def keep(checkpoint: Checkpoint) -> None:
        if learner.rank == 0:
            # The journal first: its entry counts only once the checkpoint that it belongs to is there.
            metric_journal.write(lake, assignment.run, checkpoint.step, checkpoint.pending, times_ms)
            checkpoint.push(lake, assignment.run)
            prune(lake, assignment.run, assignment.launch.keep_checkpoints)
            times_ms.clear()
        on_checkpoint(checkpoint)

    dev = training_set.ids("dev")
    evaluate = DevEvaluation(training_set, dev) if dev else last_epoch
    resume = Checkpoint.latest(lake, assignment.run)
    callbacks = Callbacks(on_step=note_time, on_checkpoint=keep, should_stop=should_stop)
    return fit(learner, plan, loader, evaluate, callbacks=callbacks, resume=resume)
