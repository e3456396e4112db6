"""The jobs' configuration: one typed root over the sections, which live beside what they configure."""

from __future__ import annotations

from emoray.config import Section, read_preset
from emoray.corpora import CorpusConfig
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.robustness import RobustnessConfig
from emoray.lake import LakeConfig
from emoray.models.config import ModelConfig
from emoray.registry.config import GateConfig, TrackingConfig
from emoray.stages.config import AnnotateConfig
from emoray.training.config import TrainConfig
from emoray_jobs.annotate_config import PlanConfig, SummaryConfig
from emoray_jobs.cluster import ClusterConfig
from emoray_jobs.demo import DemoConfig
from emoray_jobs.protocol_config import ProtocolConfig
from emoray_jobs.submit import SubmitConfig
from emoray_jobs.train_config import LaunchConfig
from emoray_serving.config import ServeConfig


class Config(Section):
    """Everything that the verbs can be told.

    Attributes:
        lake: Where tables and artefacts live.
        tracking: MLflow.
        cluster: Which Ray the jobs run on.
        corpus: Which corpus, and how it is made or read.
        annotate: The annotation stages.
        plan: What `annotate --plan` says of the work ahead.
        summary: What is done with annotate's summary.
        model: The model to train.
        train: How it is trained.
        launch: How a training is spread over a cluster.
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
