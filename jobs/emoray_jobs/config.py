"""The jobs' configuration: one typed root over the sections, which live beside what they configure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from emoray.config import Section, read_preset
from emoray.corpora import CorpusConfig
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.robustness import RobustnessConfig
from emoray.lake.tables import LakeConfig
from emoray.models.config import ModelConfig
from emoray.registry.config import GateConfig, TrackingConfig
from emoray.stages.config import AnnotateConfig
from emoray.training.config import LaunchConfig, TrainConfig
from emoray_serving.config import ServeConfig


class DemoConfig(Section):
    """What the demo does differently from the verbs that it calls.

    Attributes:
        acoustic_epochs: Epochs of the acoustic-only model.
        msf_ser_epochs: Epochs of MSF-SER.
        overrides: What the demo changes in the configuration, nested like it.
        short: Overrides (nested like the configuration) for `--short`: small enough for a test.
    """

    acoustic_epochs: int
    msf_ser_epochs: int
    overrides: dict[str, Any]
    short: dict[str, Any]


class SubmitConfig(Section):
    """How jobs go to a cluster.

    Attributes:
        address: The cluster's job server, `http://HEAD:8265`; null: `--address`, or `RAY_API_SERVER_ADDRESS`.
        python: Interpreter on the cluster.
        connect_timeout_s: How long to wait for the job server's first answer.
        pending_notice_s: How often to say why a job that waits for resources has not started.
        max_upload_mib: Limit for the local files that are sent along (Ray's own limit is 512 MiB).
        shared_folders: Absolute folders that every node mounts at the same place; paths below them stay as they are.
        env: Environment variables of the job. The dashboard shows them: leave secrets to the nodes' own identity.
        pass_env: Names of variables of this shell to pass on; the same warning applies.
    """

    address: str | None
    python: str
    connect_timeout_s: float
    pending_notice_s: float
    max_upload_mib: int
    shared_folders: tuple[str, ...]
    env: dict[str, str]
    pass_env: tuple[str, ...]


class ClusterConfig(Section):
    """Which Ray to use.

    Attributes:
        address: `host:port` of a running cluster's head; null: `RAY_ADDRESS` if set (as inside a submitted job), else a
            local Ray.
        num_cpus: Cores of the local Ray; null for all of them.
        object_store_mib: Shared memory of the local Ray's object store.
        dashboard: Whether the local Ray shows its dashboard (on loopback).
        worker_logs: Whether to print what the worker processes print.
    """

    address: str | None
    num_cpus: int | None
    object_store_mib: int
    dashboard: bool
    worker_logs: bool


class PlanConfig(Section):
    """What `annotate --plan` says of the work ahead.

    Attributes:
        calibrate_rows: Utterances that `--calibrate` measures each stage with.
        price_per_cpu_hour: What a core costs for an hour, in any currency; null leaves the price out.
        price_per_gpu_hour: Likewise for a GPU.
        price_per_million_tokens_read: What a server charges for a million tokens of questions; null leaves endpoints
            without a price.
        price_per_million_tokens_written: Likewise for answers.
    """

    calibrate_rows: int
    price_per_cpu_hour: float | None
    price_per_gpu_hour: float | None
    price_per_million_tokens_read: float | None
    price_per_million_tokens_written: float | None


class SummaryConfig(Section):
    """What is done with annotate's summary besides printing it.

    Attributes:
        track: Whether a run that computed something becomes a run in the tracking store.
    """

    track: bool


class ProtocolConfig(Section):
    """Which trials a protocol has, and how they share a cluster.

    A trial trains in one process, however many `launch.workers` there are. `launch.workers=0` runs the trials in
    the caller's process, one after another, without Ray.

    Attributes:
        seeds: Seeds; each trains once per fold, or once where the corpus has its own partitions.
        leave_out: `speaker`: folds that leave speakers out in turn, whatever folds or splits the corpus has; null: the
            corpus's own.
        speaker_groups: Number of groups that are left out in turn; null: each speaker alone.
        cpus_per_trial: Cores that a trial reserves.
        gpus_per_trial: Share of a GPU that a trial reserves where `launch.gpu` is on.
        max_parallel: Trials at once at most; null for as many as there is room for.
        max_failures: Deaths of its process that a trial survives by going on from its last checkpoint.
    """

    seeds: tuple[NonNegativeInt, ...]
    leave_out: Literal["speaker"] | None
    speaker_groups: PositiveInt | None
    cpus_per_trial: PositiveFloat
    gpus_per_trial: PositiveFloat
    max_parallel: PositiveInt | None
    max_failures: NonNegativeInt


class Config(Section):
    """The configuration of all verbs.

    Attributes:
        lake: Where tables and artefacts live.
        tracking: MLflow.
        cluster: Which Ray the jobs run on.
        corpus: Which corpus, and how it is made or read.
        annotate: The annotation stages.
        plan: What `annotate --plan` says of the work ahead.
        summary: What is done with annotate's summary.
        model: The model to train.
        train: What it learns, by which steps.
        launch: How a training is carried out.
        protocol: Which trials a protocol has, and how they share a cluster.
        evaluate: Intervals, groups and the conformal level of reports.
        robustness: How clips are made worse for `evaluate --robustness`.
        promote: The gate between challenger and champion.
        serve: The online application.
        demo: What `emoray demo` does in small.
        submit: How jobs go to a cluster.
    """

    lake: LakeConfig
    tracking: TrackingConfig
    cluster: ClusterConfig
    corpus: CorpusConfig
    annotate: AnnotateConfig
    plan: PlanConfig
    summary: SummaryConfig
    model: ModelConfig
    train: TrainConfig
    launch: LaunchConfig
    protocol: ProtocolConfig
    evaluate: EvaluateConfig
    robustness: RobustnessConfig
    promote: GateConfig
    serve: ServeConfig
    demo: DemoConfig
    submit: SubmitConfig


def options(config: Config) -> str:
    """The options that other commands need to find what was made with this configuration."""
    usual = read_preset("laptop")
    there = {"lake.root": config.lake.root, "tracking.model_name": config.tracking.model_name}
    found = [
        f" --set {path}={value}"
        for path, value in there.items()
        if value != usual[path.partition(".")[0]][path.partition(".")[2]]
    ]
    return "".join(found)
