"""The tracking store of runs; by default a SQLite file in the lake, which several processes may use at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from emoray.errors import RegistryError, ServiceError, StoppedError
from emoray.lake.tables import Lake
from emoray.registry.config import TRACKING_URI, TrackingConfig, tracking_uri

__all__ = ["Tracking", "TrackingConfig", "connect", "tracking_uri"]

#: MLflow's limits: longer values are cut, more parameters are sent in several requests.
_VALUE_CHARACTERS = 5000
_BATCH = 100

for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Tracking:
    """An open tracking store: its address, client, the experiment of new runs, and the name of the registered model."""

    uri: str
    client: MlflowClient
    experiment_id: str
    model_name: str

    def start_run(
        self, name: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> str:
        """Make a run; it stays RUNNING until `end_run` or `running` ends it.

        Nested `params` (for example a dumped configuration) are logged under dotted names. Returns the run's id.
        """
        run = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags or {}))
        run_id = str(run.info.run_id)
        flat = [Param(key, str(value)[:_VALUE_CHARACTERS]) for key, value in _flatten(params or {})]
        for start in range(0, len(flat), _BATCH):
            self.client.log_batch(run_id, params=flat[start : start + _BATCH])
        return run_id

    @contextlib.contextmanager
    def running(self, run_id: str) -> Iterator[None]:
        """Mark a run RUNNING while a block runs, then FINISHED, FAILED or (stopped by a signal) KILLED."""
        self.client.update_run(run_id, status="RUNNING")
        try:
            yield
        except BaseException as error:
            failed = isinstance(error, Exception) and not isinstance(error, StoppedError)
            self.client.set_terminated(run_id, "FAILED" if failed else "KILLED")
            raise
        self.client.set_terminated(run_id, "FINISHED")

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def has_run(self, run_id: str) -> bool:
        """Whether the store knows the run (and it was not deleted)."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException:
            return False

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags on a run."""
        self.client.log_batch(run_id, tags=[RunTag(key, str(value)[:_VALUE_CHARACTERS]) for key, value in tags.items()])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics that belong to one step (a report's, for example)."""
        for name, value in metrics.items():
            self.client.log_metric(run_id, name, value, step=step)

    def log_once(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log those of a report's metrics that the run does not have: MLflow would keep both values of a repeat."""
        known = self.client.get_run(run_id).data.metrics
        self.log_metrics(run_id, {name: value for name, value in metrics.items() if name not in known})

    def log_folder(self, run_id: str, folder: str | Path, name: str) -> None:
        """Log a folder as artifact `name`."""
        self.client.log_artifacts(run_id, str(folder), name)

    def log_dataset(self, run_id: str, frame: pl.DataFrame, *, name: str, source: str, context: str) -> str:
        """Log a table of utterances as the run's input.

        Args:
            frame: What identifies the data: ids, splits and labels; the digest is over all of it, rows in this order.
            name: Name of the corpus.
            source: Address of the table.
            context: What it was used for, for example `training`.

        Returns:
            The digest.
        """
        digest = hashlib.sha256(frame.write_csv().encode()).hexdigest()[:16]
        columns = [
            {"name": column, "type": "double" if kind.is_numeric() else "string", "required": False}
            for column, kind in frame.schema.items()
        ]
        entity = DatasetEntity(
            name=name,
            digest=digest,
            source_type=source.partition("://")[0] if "://" in source else "local",
            source=json.dumps({"uri": source}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": frame.height}),
        )
        self.client.log_inputs(run_id, [DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, context)])])
        return digest


def connect(config: TrackingConfig, lake: Lake) -> Tracking:
    """Open the tracking store; create it and the experiment if they do not exist.

    MLflow's global tracking and registry addresses are set too, as its `log_model` uses only these.

    Raises:
        ConfigError: See `tracking_uri`.
        ServiceError: The store cannot be reached or opened.
        RegistryError: The experiment was deleted.
    """
    uri = tracking_uri(config, lake)
    try:
        with _one_at_a_time(uri):
            with _environment_kept(TRACKING_URI):
                mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            experiment_id = _experiment(client, config, lake, uri)
    except (RestException, RegistryError):
        raise
    except Exception as error:
        raise ServiceError(
            f"cannot open the tracking store: {error}",
            where=uri,
            remedy="Start the MLflow server, or fix tracking.uri",
            kind="tracking_unreachable",
        ) from error
    return Tracking(uri, client, experiment_id, config.model_name)


def _experiment(client: MlflowClient, config: TrackingConfig, lake: Lake, uri: str) -> str:
    found = client.get_experiment_by_name(config.experiment)
    if found is None:
        root = config.artifact_root
        if root is None and not uri.startswith("http"):
            root = lake.uri("mlartifacts")
        try:
            return str(client.create_experiment(config.experiment, artifact_location=root))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            found = client.get_experiment_by_name(config.experiment)
            assert found is not None
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"experiment {config.experiment!r} was deleted",
            where=uri,
            remedy="Restore it (mlflow experiments restore) or set tracking.experiment",
            kind="deleted_experiment",
        )
    return str(found.experiment_id)


@contextlib.contextmanager
def _environment_kept(name: str) -> Iterator[None]:
    """Restore a variable after a block: MLflow sets it, and the next `connect` would take it for the user's."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Let only one process at a time open a SQLite store: two that create its tables at once would both fail."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = uri.removeprefix("sqlite:///")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
