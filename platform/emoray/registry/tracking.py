"""The tracking store of runs; by default a SQLite file in the lake, which several processes may use at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from emoray.errors import RegistryError, ServiceError, StoppedError
from emoray.lake.tables import Lake
from emoray.registry import provenance
from emoray.registry.config import LOCAL_ARTIFACTS, TRACKING_URI, TrackingConfig, tracking_uri
from emoray.registry.reach import environment_kept, is_lost, lost_error

__all__ = ["Tracking", "TrackingConfig", "connect", "tracking_uri"]

#: MLflow's limits: longer values are cut, more parameters or metrics are sent in several requests.
_VALUE_CHARACTERS = 5000
_BATCH = 100
_METRICS = 1000

#: Tag by which MLflow's pages show runs and models first, instead of asking what the experiment is for.
_KIND = {"mlflow.experimentKind": "custom_model_development"}

log = logging.getLogger(__name__)

for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Dataset:
    """A data set that a run has as its input, as metrics name it."""

    name: str
    digest: str


@dataclass(frozen=True)
class Tracking:
    """An open tracking store.

    Attributes:
        uri: Its address.
        experiment_id: Experiment of new runs.
        model_name: Name of the registered model.
        system_metrics: Whether `running` measures the load of this machine.
        share_files: Whether new versions share their text encoder and frozen weights.
    """

    uri: str
    client: MlflowClient
    experiment_id: str
    model_name: str
    system_metrics: bool = False
    share_files: bool = True

    def start_run(
        self,
        name: str,
        *,
        verb: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Make a run; it stays RUNNING until `end_run` or `running` ends it. Tags say where it comes from.

        Nested `params` (for example a dumped configuration) are logged under dotted names. Returns the run's id.

        Args:
            verb: Command that makes it.
        """
        run = self.client.create_run(
            self.experiment_id, run_name=name, tags={**provenance.tags(verb), **dict(tags or {})}
        )
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
            with _system_metrics(self, run_id) if self.system_metrics else contextlib.nullcontext():
                yield
        except BaseException as error:
            if is_lost(error):  # the run stays RUNNING: the same command goes on with it
                raise
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
        except MlflowException as error:
            if is_lost(error):
                raise lost_error(self.uri, error) from error
            return False

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags on a run."""
        self.client.log_batch(run_id, tags=[RunTag(key, str(value)[:_VALUE_CHARACTERS]) for key, value in tags.items()])

    def log_metrics(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        step: int = 0,
        *,
        dataset: Dataset | None = None,
        model_id: str | None = None,
    ) -> None:
        """Log metrics that belong to one step (a report's, for example), at the same time.

        Args:
            dataset: What they were measured on.
            model_id: Logged model that they are of; its page shows them.
        """
        now = int(time.time() * 1000)
        on = {} if dataset is None else {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
        rows = [
            Metric(name, value, now, step, model_id=model_id, run_id=run_id, **on) for name, value in metrics.items()
        ]
        for start in range(0, len(rows), _METRICS):
            self.client.log_batch(run_id, metrics=rows[start : start + _METRICS])

    def log_once(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        step: int = 0,
        *,
        dataset: Dataset | None = None,
        model_id: str | None = None,
    ) -> None:
        """Log those of a report's metrics that the run does not have: MLflow would keep both values of a repeat."""
        known = self.client.get_run(run_id).data.metrics
        new = {name: value for name, value in metrics.items() if name not in known}
        self.log_metrics(run_id, new, step, dataset=dataset, model_id=model_id)

    def log_folder(self, run_id: str, folder: str | Path, name: str) -> None:
        """Log a folder as artifact `name`."""
        self.client.log_artifacts(run_id, str(folder), name)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Log a text as artifact `name`."""
        self.client.log_text(run_id, text, name)

    def log_dataset(self, run_id: str, frame: pl.DataFrame, *, name: str, source: str, context: str) -> Dataset:
        """Log a table of utterances as the run's input.

        Args:
            frame: What identifies the data: ids, splits and labels; the digest is over all of it, rows in this order.
            name: Name of the corpus.
            source: Address of the table.
            context: What it was used for, for example `training`.
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
        return Dataset(name, digest)

    def dataset(self, run_id: str, context: str) -> Dataset | None:
        """The input that a run used for something; None where it has none."""
        inputs = self.client.get_run(run_id).inputs
        for one in inputs.dataset_inputs if inputs else ():
            if any(tag.key == MLFLOW_DATASET_CONTEXT and tag.value == context for tag in one.tags):
                return Dataset(one.dataset.name, one.dataset.digest)
        return None


def connect(config: TrackingConfig, lake: Lake) -> Tracking:
    """Open the tracking store; create it and the experiment if they do not exist.

    MLflow's global tracking and registry addresses are set too, as its `log_model` uses only these.

    Raises:
        ConfigError: See `tracking_uri`.
        ServiceError: The store cannot be reached or opened.
        RegistryError: The experiment was deleted, or the lake was moved (`moved_lake`).
    """
    uri = tracking_uri(config, lake)
    try:
        with _one_at_a_time(uri):
            with environment_kept(TRACKING_URI):  # the next `connect` would take what MLflow sets for the user's
                mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            experiment_id = _experiment(client, config, lake, uri)
    except (RestException, RegistryError):
        raise
    except Exception as error:
        if is_lost(error):
            raise lost_error(uri, error) from error
        raise ServiceError(
            f"cannot open the tracking store: {error}",
            where=uri,
            remedy="Start the MLflow server, or fix tracking.uri",
            kind="tracking_unreachable",
        ) from error
    return Tracking(
        uri,
        client,
        experiment_id,
        config.model_name,
        system_metrics=config.system_metrics,
        share_files=config.share_files,
    )


@contextlib.contextmanager
def _system_metrics(tracking: Tracking, run_id: str) -> Iterator[None]:
    """Have MLflow measure this machine while a block runs; a resumed run's figures go on from the last step."""
    if util.find_spec("psutil") is None:
        log.warning("tracking.system_metrics needs psutil, which is not installed: no load is measured")
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking.uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _experiment(client: MlflowClient, config: TrackingConfig, lake: Lake, uri: str) -> str:
    found = client.get_experiment_by_name(config.experiment)
    if found is None:
        root = config.artifact_root
        if root is None and not uri.startswith("http"):
            root = lake.uri(LOCAL_ARTIFACTS)
        try:
            return str(client.create_experiment(config.experiment, artifact_location=root, tags=_KIND))
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
    _assert_at_home(str(found.artifact_location), config, lake, uri)
    return str(found.experiment_id)


def _assert_at_home(artifacts: str, config: TrackingConfig, lake: Lake, uri: str) -> None:
    """Refuse the store of a lake that was moved or copied: it would write into the lake that it came from.

    Raises:
        RegistryError: The store in the lake has its artifacts in another lake (`moved_lake`).
    """
    if config.artifact_root is not None or uri != f"sqlite:///{lake.path('mlflow.db')}":
        return
    former, own = artifacts.removesuffix(f"/{LOCAL_ARTIFACTS}"), os.path.realpath(lake.root)
    if former != artifacts and os.path.realpath(former) != own:
        raise RegistryError(
            f"this lake lay at {former}, where its MLflow store would read and write",
            where=lake.root,
            remedy="Let it name itself again: emoray lake rehome",
            kind="moved_lake",
        )


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
