"""Configuration of the tracking store and of the promotion gate (imports no MLflow: the command line reads it)."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from emoray.config import Section
from emoray.errors import ConfigError
from emoray.lake.tables import Lake

TRACKING_URI = "MLFLOW_TRACKING_URI"
#: Folder of artifacts in a lake that has the store too.
LOCAL_ARTIFACTS = "mlartifacts"


class TrackingConfig(Section):
    """Where runs and model versions are stored.

    Attributes:
        uri: MLflow tracking URI; null = `MLFLOW_TRACKING_URI` if set, else a SQLite file in a local lake.
        artifact_root: Folder of a new experiment's artifacts; null = `mlartifacts/` in the lake, or the server's choice
            if `uri` is an http(s) address.
        experiment: Name of the experiment.
        model_name: Name of the registered model.
        keep_versions: How many of the newest versions `emoray registry prune` keeps besides those that it must.
        share_files: Whether a new version's text encoder and frozen weights are stored once for all versions. Such a
            version loads where the tracking store can be reached; false: each holds a copy, for images that are made of
            it.
        system_metrics: Whether a training's run gets the load of its driver's machine (CPU, memory, disk, network,
            GPUs) every ten seconds, or as `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` says. Needs psutil.
    """

    uri: str | None
    artifact_root: str | None
    experiment: str
    model_name: str
    keep_versions: NonNegativeInt
    share_files: bool
    system_metrics: bool


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


Figure = Literal["valence", "arousal", "dominance", "uar"]


class GateConfig(Section):
    """The gate's policy: rules, each with its limits. A challenger replaces the champion if it keeps them all.

    The headline figure is the mean CCC, or UAR in a corpus or for versions without dimensions. Every figure is the mean
    over the conditions. A rule whose limit is null is left out.

    Attributes:
        level: Semantic level of the comparison: audio, transcript or full.
        conditions: Condition, for example `unknown/reference` → how often it counts in the mean; empty: each that both
            versions know counts once.
        min_gain: The estimated difference of the headline figure (challenger − champion) must reach this.
        min_lower_bound: The lower end of its paired interval must be above this. 0 = better beyond chance;
            −.01 = "not worse by more than .01" (non-inferiority, for example to swap in a cheaper model).
        min_gains: Further figures that must gain → least estimated gain; their lower ends must be above
            `min_lower_bound` too.
        interval_level: Level of the paired intervals of gains and the family of groups. For the k-th challenger against
            one champion the interval's error is divided by k·(k + 1): all attempts together keep to this level.
        max_loss: Non-inferiority: CCC of a dimension, or UAR → largest loss; the lower end of the paired interval must
            be above its negative.
        max_condition_loss: Non-inferiority of the headline figure under each condition alone.
        noninferiority_level: Level of those intervals; .8 leaves 10 % on the side that matters.
        group_columns: Columns of the predictions or of the utterances table, or `duration`, whose groups are compared
            separately.
        min_group_clips: Smaller groups are listed, not compared, as are those of a single speaker.
        max_group_loss: A group fails if its headline figure falls by more than this and significantly so: one-sided
            p-values, adjusted by Holm over all groups, below 1 − `interval_level`.
        min_speakers: Known speakers that a comparison needs; 0: a corpus without speakers is compared over clips.
        max_coverage_shortfall: How far the share of labels within the challenger's intervals may lie below their
            nominal level, for each dimension.
        same: What must be as the champion's: `classes` (and whether dimensions are scored), `scale`, `signature` (of
            the MLflow model: nothing that callers use may go; more outputs and optional inputs may come).
        latency_budget_ms: p95 time of the scorer per clip (batch of one, everything in process, with the threads of
            `serve.scorer`).
        latency_clips: Clips to measure the latency on.
        max_latency_ratio: Largest p95 time as a multiple of the champion's on the same clips.
        max_size_mib: Largest size of the version's files.
        required_tags: Tags that the version must have.
        approvals: Tag → value that the version must have, for example `{reviewed_by: alice}`.
        clean_process: Whether the version must load and score in a process that cannot see this repository.
        clean_process_timeout_s: How long that may take.
        fresh_environment: Whether that process has its own environment, into which only the version's pinned
            requirements are installed, by pip.
        fresh_environment_timeout_s: How long the installation may take.
    """

    level: str
    conditions: dict[str, PositiveInt]
    min_gain: float
    min_lower_bound: float
    min_gains: dict[Figure, float]
    interval_level: Annotated[float, Field(gt=0, lt=1)]
    max_loss: dict[Figure, float | None]
    max_condition_loss: float | None
    noninferiority_level: Annotated[float, Field(gt=0, lt=1)]
    group_columns: tuple[str, ...]
    min_group_clips: int
    max_group_loss: float
    min_speakers: NonNegativeInt
    max_coverage_shortfall: float | None
    same: tuple[Literal["classes", "scale", "signature"], ...]
    latency_budget_ms: float
    latency_clips: int
    max_latency_ratio: float | None
    max_size_mib: float | None
    required_tags: tuple[str, ...]
    approvals: dict[str, str]
    clean_process: bool
    clean_process_timeout_s: float
    fresh_environment: bool
    fresh_environment_timeout_s: float

    def gain_level(self, attempt: int) -> float:
        """Level of the gain's interval for the k-th challenger against one champion."""
        return 1 - (1 - self.interval_level) / (attempt * (attempt + 1))
