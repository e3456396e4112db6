"""`checkpoints/<run>/run.json`: which MLflow run belongs to a training, and what it came to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.tracking import Tracking


def baselines_file(run: str) -> tuple[str, ...]:
    """Path in the lake of the predictions of a run's baselines."""
    return ("checkpoints", run, "baselines.parquet")


class RunRecord:
    """The record of a run, from which the same command resumes it, or returns its result."""

    def __init__(self, lake: Lake, run: str, tracking: Tracking) -> None:
        self.run = run
        self._lake, self._tracking = lake, tracking
        self._where = ("checkpoints", run, "run.json")
        self._record: dict[str, Any] = lake.read_json(*self._where) if lake.exists(*self._where) else {}
        # Another store, or one that was cleared, knows nothing of this run; its checkpoints and its journal stay good.
        if self._record and not tracking.has_run(self.run_id):
            self._record = {}

    @property
    def run_id(self) -> str:
        """Its MLflow run."""
        return str(self._record["run_id"])

    @property
    def has_begun(self) -> bool:
        """Whether it has an MLflow run."""
        return bool(self._record)

    def begin(self, run_id: str) -> None:
        """Note its MLflow run."""
        self._write({"run_id": run_id})

    def finish(self, done: Mapping[str, Any]) -> None:
        """Record the result: `version`, and what the caller wants to read again."""
        self._write({**self._record, "done": dict(done)})

    def finished(self) -> dict[str, Any] | None:
        """What it came to, if it is finished and its version still registered."""
        done: dict[str, Any] | None = self._record.get("done")
        if done is None or all(one.version != done["version"] for one in versions.all_versions(self._tracking)):
            return None
        return done

    def forget(self) -> None:
        """Remove the run's folder, checkpoints and all."""
        self._record = {}
        with contextlib.suppress(FileNotFoundError):
            self._lake.fs.rm(self._lake.path("checkpoints", self.run), recursive=True)

    def _write(self, record: dict[str, Any]) -> None:
        self._record = record
        self._lake.write_json(record, *self._where)
