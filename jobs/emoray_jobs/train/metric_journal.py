"""A run's metrics on their way to MLflow: written beside its checkpoints, and logged from there once.

MLflow keeps both values of a repeated (key, step). So rank 0 writes the metrics of the steps since the last checkpoint
to the lake, right before the checkpoint that contains those steps; the driver logs an entry once that checkpoint is
there. Steps that a killed worker had done since are done again, and their entry is overwritten before it was logged.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from emoray.lake.tables import Lake
from emoray.training.checkpoint import checkpoint_steps

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

#: MLflow takes so many metrics in one request (and, on a database, in one transaction).
BATCH = 1000
POLL_LOCAL_S = 0.3
POLL_REMOTE_S = 2.0

#: Key of a row: when it was measured.
AT_MS = "at_ms"

Metrics = Mapping[str, float]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def write(
    lake: Lake, run: str, step: int, metrics: Sequence[Metrics], times_ms: Mapping[int, int] | None = None
) -> None:
    """Write the entry of a checkpoint.

    Args:
        metrics: {"step": …, name: value} of the steps and epochs since the checkpoint before.
        times_ms: When each step was done, in milliseconds since 1970; now for others.
    """
    known, now = times_ms or {}, now_ms()
    rows = [{**row, AT_MS: known.get(int(row["step"]), now)} for row in metrics]
    entry = {"step": step, "timestamp_ms": now, "metrics": rows}
    lake.write_json(entry, "checkpoints", run, "journal", f"{step:09d}.json")


def entries(lake: Lake, run: str, after: int = -1) -> list[dict[str, Any]]:
    """Entries of a run that belong to a stored checkpoint, in order of step."""
    stored = checkpoint_steps(lake, run)
    if not stored or stored[-1] <= after:
        return []
    names = (path.rsplit("/", 1)[-1] for path in lake.list_files("checkpoints", run, "journal", suffix=".json"))
    steps = [int(name.removesuffix(".json")) for name in names]
    return [
        lake.read_json("checkpoints", run, "journal", f"{step:09d}.json")
        for step in steps
        if after < step <= stored[-1]
    ]


class MetricLogger:
    """Logs journal entries to an MLflow run, no (key, step) twice, whoever logged before."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        keys = client.get_run(run_id).data.metrics
        self._logged = {(key, point.step) for key in keys for point in client.get_metric_history(run_id, key)}

    def log(self, entry: Mapping[str, Any]) -> None:
        """Log what is new in an entry."""
        from mlflow.entities import Metric

        new: dict[tuple[str, int], Metric] = {}
        for row in entry["metrics"]:
            step, at_ms = int(row["step"]), int(row.get(AT_MS, entry["timestamp_ms"]))
            for key, value in row.items():
                if key not in ("step", AT_MS) and (key, step) not in self._logged:
                    new[key, step] = Metric(key, float(value), at_ms, step)
        metrics = iter(new.values())
        while batch := list(itertools.islice(metrics, BATCH)):
            self._client.log_batch(self._run_id, metrics=batch)
        self._logged.update(new)


class MetricJournalReader:
    """Calls a function with each entry of a run's journal once, in order."""

    def __init__(self, lake: Lake, run: str, on_entry: Callable[[Mapping[str, Any]], None]) -> None:
        self._lake, self._run, self._see = lake, run, on_entry
        self._seen = -1

    def poll(self) -> None:
        """See the entries that are there now and were not seen."""
        for entry in entries(self._lake, self._run, self._seen):
            self._see(entry)
            self._seen = entry["step"]

    @contextlib.contextmanager
    def poll_in_background(self) -> Iterator[None]:
        """Follow in a thread while a block runs; the last entries are seen before it ends, also if it fails."""
        pause = POLL_LOCAL_S if self._lake.is_local else POLL_REMOTE_S
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(pause):
                try:
                    self.poll()
                except Exception as error:
                    from emoray.registry.reach import is_lost

                    if not is_lost(error):
                        raise
                    # Training goes on, and what could not be logged is tried again.
                    log.warning("the tracking server does not answer; the metrics wait beside the checkpoints")

        self.poll()
        with ThreadPoolExecutor(1, thread_name_prefix="journal") as executor:
            following = executor.submit(follow)
            try:
                yield
            finally:
                stop.set()
                wait([following])
                self.poll()
            following.result()
