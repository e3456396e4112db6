"""Configuration of the tracking store and of the promotion gate (imports no MLflow: the command line reads it)."""

from __future__ import annotations

import os

from pydantic import PositiveInt

from emoray.config import Section
from emoray.errors import ConfigError
from emoray.lake.tables import Lake

TRACKING_URI = "MLFLOW_TRACKING_URI"


class TrackingConfig(Section):
    """Where runs and model versions are stored.

    Attributes:
        uri: MLflow tracking URI; null = `MLFLOW_TRACKING_URI` if set, else a SQLite file in a local lake.
        artifact_root: Folder of a new experiment's artifacts; null = `mlartifacts/` in the lake, or the server's choice
            if `uri` is an http(s) address.
        experiment: Name of the experiment.
        model_name: Name of the registered model.
    """

    uri: str | None
    artifact_root: str | None
    experiment: str
    model_name: str


def tracking_uri(config: TrackingConfig, lake: Lake) -> str:
    """Address of the tracking store.

    Raises:
        ConfigError: The lake is remote and no tracking server was named.
    """
    given = config.uri or os.environ.get(TRACKING_URI)
    if given:
        return given
    if not lake.is_local:
        raise ConfigError(
            f"a lake on {lake.root} needs a tracking server: SQLite files must be on local disks",
            where="tracking.uri",
            remedy="Set tracking.uri=http://… or MLFLOW_TRACKING_URI",
        )
    return f"sqlite:///{lake.path('mlflow.db')}"


class GateConfig(Section):
    """When a challenger may replace the champion.

    Attributes:
        level: Semantic level of the comparison: audio, transcript or full.
        conditions: Condition, for example `unknown/reference` → how often it counts in the mean; empty: each that both
            versions know counts once.
        min_gain: The estimated difference of mean CCC (challenger − champion) must reach this.
        min_lower_bound: The lower end of its paired interval must be above this. 0 = better beyond chance;
            −.01 = "not worse by more than .01" (non-inferiority, for example to swap in a cheaper model).
        interval_level: Level of the paired interval.
        group_columns: Columns of the predictions whose groups are compared separately.
        min_group_clips: Smaller groups are listed, not compared.
        max_group_loss: A group fails if its mean CCC falls by more than this and the whole interval is below zero.
        latency_budget_ms: p95 time of the scorer per clip (batch of one, everything in process).
        latency_clips: Clips to measure the latency on.
        clean_process: Whether the version must load and score in a process that cannot see this repository.
        clean_process_timeout_s: How long that may take.
    """

    level: str
    conditions: dict[str, PositiveInt]
    min_gain: float
    min_lower_bound: float
    interval_level: float
    group_columns: tuple[str, ...]
    min_group_clips: int
    max_group_loss: float
    latency_budget_ms: float
    latency_clips: int
    clean_process: bool
    clean_process_timeout_s: float
