"""Configuration of the online application: addresses, limits, replicas, batches, deadlines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from emoray import config as settings
from emoray.config import Section
from emoray.engines.config import EndpointConfig, EngineConfig, VllmConfig
from emoray.errors import ConfigError
from emoray.lake.tables import LakeConfig
from emoray.registry.config import TrackingConfig
from emoray.stages.config import AnnotateConfig

Recogniser = Literal["none", "auto", "pocketsphinx", "moonshine", "whisper", "whisper_vllm", "endpoint"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class HttpConfig(Section):
    """Where the proxies listen.

    Attributes:
        host: Address to bind; loopback unless a gateway in front of it controls access.
        port: TCP port.
        proxy_location: `HeadOnly` or `EveryNode`: on which nodes of a cluster a proxy runs.
        request_timeout_s: Time after which the proxy gives up on a request.
        keep_alive_timeout_s: Time that an idle connection stays open.
    """

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    proxy_location: Literal["HeadOnly", "EveryNode"]
    request_timeout_s: Positive
    keep_alive_timeout_s: Count


class LimitsConfig(Section):
    """Limits on a request.

    Attributes:
        max_body_bytes: Larger bodies (and objects behind `uri`) are refused with `payload_too_large`.
        uri_buckets: Buckets that `uri=s3://bucket/key` may name; empty = none.
        max_budget_ms: Largest `budget_ms`, and the budget of a request that sets none.
        scoring_reserve_ms: Part of the budget that is kept for the scoring; the wait for semantics ends when it begins.
    """

    max_body_bytes: Count
    uri_buckets: tuple[str, ...]
    max_budget_ms: Positive
    scoring_reserve_ms: Annotated[float, Field(ge=0)]


class ReplicasConfig(Section):
    """Scaling of a deployment, and the load of one replica.

    Attributes:
        min_replicas: Smallest number of replicas.
        max_replicas: Largest number of replicas.
        target_ongoing_requests: Requests per replica that autoscaling aims at.
        max_ongoing_requests: Requests that a replica handles at once; more wait at the caller.
        max_queued_requests: Requests that may wait at one caller; more get `overloaded` (-1 = no limit).
        upscale_delay_s: Time that a demand must last before a replica is added.
        downscale_delay_s: Time that a replica must be superfluous before it is removed.
        drain_timeout_s: Time that a replica has to finish its requests before it stops.
        num_cpus: Cores that Ray reserves per replica.
        num_gpus: GPUs that Ray reserves per replica.
    """

    min_replicas: Count
    max_replicas: Count
    target_ongoing_requests: Positive
    max_ongoing_requests: Count
    max_queued_requests: Annotated[int, Field(ge=-1)]
    upscale_delay_s: Annotated[float, Field(ge=0)]
    downscale_delay_s: Annotated[float, Field(ge=0)]
    drain_timeout_s: Annotated[float, Field(ge=0)]
    num_cpus: Annotated[float, Field(ge=0)]
    num_gpus: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _consistent(self) -> ReplicasConfig:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")
        if self.target_ongoing_requests > self.max_ongoing_requests:
            raise ValueError(
                f"target_ongoing_requests {self.target_ongoing_requests:g} exceeds max_ongoing_requests"
                f" {self.max_ongoing_requests}: autoscaling could never reach its target"
            )
        return self

    def options(self) -> dict[str, Any]:
        """The section as keyword arguments of a Ray Serve deployment."""
        scaling = {"min_replicas", "max_replicas", "target_ongoing_requests", "upscale_delay_s", "downscale_delay_s"}
        return {
            "autoscaling_config": self.model_dump(include=scaling),
            "ray_actor_options": self.model_dump(include={"num_cpus", "num_gpus"}),
            "graceful_shutdown_timeout_s": self.drain_timeout_s,
            **self.model_dump(include={"max_ongoing_requests", "max_queued_requests"}),
        }


class BatchConfig(Section):
    """Dynamic batching inside a replica.

    Attributes:
        max_size: Most requests in one batch.
        wait_s: Time that the first request of a batch waits for others.
    """

    max_size: Count
    wait_s: Annotated[float, Field(ge=0)]


class GatewayConfig(Section):
    """The gateway: reads bodies, decodes audio, collects the parts of a reply.

    Attributes:
        refresh_s: Interval at which a replica asks the scorer which version it serves.
        decode_threads: Clips decoded at the same time in one replica.
        replicas: Scaling.
    """

    refresh_s: Positive
    decode_threads: Count
    replicas: ReplicasConfig


class ModelDeploymentConfig(Section):
    """A deployment that computes: threads, batch and scaling.

    Attributes:
        threads: CPU threads of one replica's numerical libraries.
        batch: Dynamic batching.
        replicas: Scaling.
    """

    threads: Count
    batch: BatchConfig
    replicas: ReplicasConfig

    @model_validator(mode="after")
    def _batches_can_fill(self) -> ModelDeploymentConfig:
        if self.batch.max_size > self.replicas.max_ongoing_requests:
            raise ValueError(
                f"batch.max_size {self.batch.max_size} exceeds replicas.max_ongoing_requests"
                f" {self.replicas.max_ongoing_requests}: such a batch could never fill"
            )
        return self


class ScorerConfig(ModelDeploymentConfig):
    """The deployment that holds the model version.

    Attributes:
        alias: Alias of the registered model that is served and watched.
        poll_s: Interval at which the alias is looked up.
        keep_previous_s: Time that the previous version stays loaded after a swap, for requests whose semantics were
            computed with its stages; at least gateway.refresh_s.
        retry_max_s: Longest pause between attempts at a version that does not load.
    """

    alias: str
    poll_s: Positive
    keep_previous_s: Positive
    retry_max_s: Positive


class TranscriberConfig(ModelDeploymentConfig):
    """The deployment that aligns given transcripts and recognises missing ones.

    Attributes:
        recogniser: Kind of the transcribe stage used when a request gives no transcript, or `none`. `auto` is one that
            the served version was fitted with, or Moonshine if it was fitted with none. Words of a recogniser that the
            version does not know are shown but not used, and the reply says so.
    """

    recogniser: Recogniser


#: How a server is asked. A version says which server wrote its semantics, not how long a request may wait for it.
_TREATMENT = {"max_parallel", "timeout_s", "max_attempts", "patience_s", "backoff_s", "max_backoff_s"}


class DescriberEngineConfig(Section):
    """What runs the language model of a version whose semantics one wrote; no part of the version.

    Attributes:
        kind: `fitted` runs it as annotate did for the version, `vllm` in each replica, `endpoint` asks a server that
            knows it by the version's name for it, `none` runs no language model: such semantics are absent.
        vllm: Options of `vllm`.
        endpoint: Options of `endpoint`. Timeouts, attempts and pauses hold for the server of a version too.
        retry_s: Time for which an engine that failed as a whole (away, refusing, not loading) is not asked again.
    """

    kind: Literal["fitted", "vllm", "endpoint", "none"]
    vllm: VllmConfig
    endpoint: EndpointConfig
    retry_s: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _can_be_asked(self) -> DescriberEngineConfig:
        url = self.endpoint.url
        if self.kind == "endpoint" and (url is None or not url.startswith(("http://", "https://"))):
            raise ValueError("kind is endpoint: endpoint.url needs an address, for example http://127.0.0.1:8001/v1")
        return self

    def over(self, fitted: EngineConfig) -> EngineConfig:
        """The engine for a version, from the one that annotate had for it."""
        if self.kind in ("vllm", "endpoint"):
            return fitted.model_copy(update={"kind": self.kind, "vllm": self.vllm, "endpoint": self.endpoint})
        treatment = self.endpoint.model_dump(include=_TREATMENT)
        return fitted.model_copy(update={"endpoint": fitted.endpoint.model_copy(update=treatment)})


class DescriberConfig(ModelDeploymentConfig):
    """The deployment that marks emphasis and writes semantics.

    Attributes:
        engine: What runs a version's language model.
    """

    engine: DescriberEngineConfig

    @model_validator(mode="after")
    def _gpus_suffice(self) -> DescriberConfig:
        spanned, held = self.engine.vllm.tensor_parallel_size, self.replicas.num_gpus
        if self.engine.kind == "vllm" and 0 < held < spanned and spanned > 1:
            raise ValueError(f"engine.vllm.tensor_parallel_size {spanned} exceeds replicas.num_gpus {held:g}")
        return self


class ServeConfig(Section):
    """The whole application.

    Attributes:
        app_name: Name of the application on the cluster.
        route_prefix: Path that it is mounted at.
        ready_timeout_s: Time that `emoray serve` waits for all deployments to run.
        http: Addresses.
        limits: Limits on a request.
        gateway: The HTTP deployment.
        scorer: The deployment that holds the model version.
        transcriber: Given and recognised transcripts.
        describer: Emphasis and extended semantics.
    """

    app_name: str
    route_prefix: Annotated[str, Field(pattern="^/")]
    ready_timeout_s: Positive
    http: HttpConfig
    limits: LimitsConfig
    gateway: GatewayConfig
    scorer: ScorerConfig
    transcriber: TranscriberConfig
    describer: DescriberConfig

    @model_validator(mode="after")
    def _consistent(self) -> ServeConfig:
        if self.scorer.keep_previous_s < self.gateway.refresh_s:
            raise ValueError(
                f"scorer.keep_previous_s {self.scorer.keep_previous_s:g} is less than gateway.refresh_s"
                f" {self.gateway.refresh_s:g}: a gateway would prepare semantics for an unloaded version"
            )
        if self.limits.scoring_reserve_ms >= self.limits.max_budget_ms:
            raise ValueError("limits.scoring_reserve_ms must be less than limits.max_budget_ms")
        return self


class AppConfig(Section):
    """The part of the configuration that the application reads; sections of other jobs are ignored.

    Attributes:
        lake: Tables and artefacts.
        tracking: The model registry.
        annotate: Audio options.
        serve: The application.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    lake: LakeConfig
    tracking: TrackingConfig
    annotate: AnnotateConfig
    serve: ServeConfig


def load_app_config(args: dict[str, Any]) -> AppConfig:
    """Read the arguments of the application builder.

    Args:
        args: As in a Serve config file or on the line of `serve run`: `preset` names a preset (default `laptop`); any
            other key is a section (`serve: {http: {port: 9000}}`) or a dotted override (`serve.http.port: 9000`). The
            environment's `EMORAY_SECTION__KEY` overrides the preset, and these override it, as for every job.

    Raises:
        ConfigError: Names the exact key.
    """
    preset = str(args.get("preset", settings.BASE_PRESET))
    tree = settings.load(AppConfig, preset=preset).model_dump(mode="json")
    for name, value in args.items():
        if name == "preset":
            continue
        path = name.split(".")
        if path[0] not in AppConfig.model_fields:
            known = ", ".join(["preset", *AppConfig.model_fields])
            raise ConfigError("unknown argument of the application", where=name, remedy=f"It takes {known}")
        for part in reversed(path):
            value = {part: value}
        tree = settings.merge(tree, value)
    return settings.validate(AppConfig, tree)
