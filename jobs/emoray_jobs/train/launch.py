"""Ray Train: starting the workers of a run and waiting for them."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable

import pyarrow.fs
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from emoray.errors import TrainingError
from emoray.lake.tables import Lake
from emoray_jobs.progress import message
from emoray_jobs.train.run_spec import RunSpec
from emoray_jobs.train.stop_signal import StopRequest
from emoray_jobs.train.worker import ERROR, STOP, train_on_worker

#: How often Ray Train looks whether its workers live or are done; its own two seconds add up in short runs.
HEALTH_CHECK_S = "0.5"
#: How often the driver looks whether a signal asked it to stop.
LOOK_S = 0.5


def train_on_ray(assignment: RunSpec, lake: Lake, stop: StopRequest, *, share_cores: bool) -> None:
    """Have Ray Train run the workers of a run to the end. After a worker's death all resume from the last checkpoint.

    Once asked to stop they checkpoint and end; after `launch.stop_s` it returns without waiting for that.

    Args:
        share_cores: Ray has all the cores that it will get: let workers reserve less where they would leave none to
            the tasks that collate, which they wait for.

    Raises:
        TrainingError: The run cannot continue, or workers died more often than `launch.max_failures`.
    """
    error = ("checkpoints", assignment.run, ERROR)
    for name in (ERROR, STOP):
        if lake.exists("checkpoints", assignment.run, name):
            lake.fs.rm_file(lake.path("checkpoints", assignment.run, name))
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_S)
    message(f"starting {assignment.launch.workers} training workers …")
    try:
        ended = _fit(_trainer(assignment, lake, share_cores))
        if not _wait(ended, until=stop.is_set):
            lake.write_json({"signal": stop.signal}, "checkpoints", assignment.run, STOP)
            limit = time.monotonic() + assignment.launch.stop_s
            if not _wait(ended, until=lambda: time.monotonic() >= limit):
                message(
                    f"workers did not end within launch.stop_s ({assignment.launch.stop_s:g} s): not waiting for them"
                )
    except TrainingFailedError as failure:
        raise TrainingError(
            f"workers failed more than {assignment.launch.max_failures} times: {' '.join(str(failure).split())}",
            where=assignment.run,
            remedy="Fix the cause and run the same command again: it resumes from the last checkpoint",
            kind="workers_failed",
        ) from failure
    except ray.exceptions.RayError as failure:
        if not stop.is_set():
            raise
        # The signal went to Ray's own processes as well.
        message(f"Ray ended before its workers did: {' '.join(str(failure).split())}")
    if lake.exists(*error):
        found = lake.read_json(*error)
        raise TrainingError(found["what"], where=found["where"], remedy=found["remedy"], kind=found["kind"])


def _trainer(assignment: RunSpec, lake: Lake, share_cores: bool) -> TorchTrainer:
    launch = assignment.launch
    resources = {"CPU": launch.cpus_per_worker}
    if share_cores:
        left = ray.cluster_resources().get("CPU", 1.0) - launch.cpus_per_data_task
        resources["CPU"] = min(launch.cpus_per_worker, int(1000 * left / launch.workers) / 1000)
    if launch.gpu:
        resources["GPU"] = 1
    return TorchTrainer(
        train_on_worker,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend="nccl" if launch.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=launch.workers, use_gpu=launch.gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=assignment.run,
            storage_path=lake.path("work", "ray_train"),
            storage_filesystem=None if lake.is_local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(lake.fs)),
            failure_config=FailureConfig(max_failures=launch.max_failures),
        ),
    )


def _fit(trainer: TorchTrainer) -> queue.SimpleQueue[BaseException | None]:
    """Fit in a thread, as Ray Train handles Ctrl-C itself in the main one; its error, or None, comes into the queue."""
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # handed to the thread that waits
            ended.put(error)
        else:
            ended.put(None)

    # A daemon, since after a stop it may live until Ray is gone.
    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    return ended


def _wait(ended: queue.SimpleQueue[BaseException | None], until: Callable[[], bool]) -> bool:
    """Wait for the end, whose error is raised, or for a condition; whether it was the end."""
    while not until():
        with contextlib.suppress(queue.Empty):
            error = ended.get(timeout=LOOK_S)
            if error is not None:
                raise error
            return True
    return False
