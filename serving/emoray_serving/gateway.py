"""The gateway deployment: reads HTTP requests, collects semantics until the deadline, calls the scorer, replies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from emoray.audio.io import Waveform, decode
from emoray_serving.clip_semantics import ClipSemantics
from emoray_serving.config import AppConfig
from emoray_serving.http.api import create_app, no_champion
from emoray_serving.http.errors import ApiError
from emoray_serving.http.reply import build_reply
from emoray_serving.http.request import ParsedRequest, fetch_audio
from emoray_serving.http.schemas import ModelStatus, ScoreReply
from emoray_serving.messages import Scored, ScoreJob
from emoray_serving.semantics_client import Clip, SemanticsClient
from emoray_serving.timing import timed

logger = logging.getLogger(__name__)


@serve.ingress()
class Gateway:
    """One replica of the gateway; it keeps no state between requests."""

    def __init__(
        self,
        config: AppConfig,
        scorer: DeploymentHandle,
        transcriber: DeploymentHandle,
        describer: DeploymentHandle,
    ) -> None:
        self._config = config
        self._scorer = scorer
        self._semantics = SemanticsClient(transcriber, describer)
        self._threads = ThreadPoolExecutor(config.serve.gateway.decode_threads, thread_name_prefix="decode")
        self._status: ModelStatus | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The FastAPI application; Serve calls this after the constructor."""
        return create_app(self, self._config.serve.limits, lifespan=self._lifespan)

    async def status(self) -> ModelStatus:
        """The served version as the scorer last reported it; asks the scorer while there is none."""
        if self._status is None or self._status.version is None:
            await self._refresh()
        assert self._status is not None
        return self._status

    async def score(self, request: ParsedRequest, request_id: str) -> ScoreReply:
        """Score one clip.

        Raises:
            ApiError: By name, see `errors.STATUS`.
            AudioError: The clip cannot be used.
        """
        started = time.perf_counter()
        parameters = request.parameters
        timing_ms: dict[str, float] = {}
        status = await self.status()
        if status.version is None:
            raise no_champion(status)
        with timed(timing_ms, "decode"):
            waveform = await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, request)
        semantics = ClipSemantics()
        if parameters.semantics != "none":
            clip = Clip(
                request_id=request_id,
                samples=waveform.samples,
                transcript=parameters.transcript,
                speaker_id=parameters.speaker_id,
                semantics=parameters.semantics,
                version=status.version,
                hears=status.semantics == "audio_llm",
                transcripts=status.transcripts,
                recogniser=status.recogniser,
                deadline=started + self._wait_s(parameters.budget_ms),
            )
            semantics = await self._semantics.collect(clip, timing_ms)
        usable = semantics.usable_level(parameters.semantics)
        job = ScoreJob(
            version=None if usable == "none" else status.version,
            samples=waveform.samples,
            semantics=usable,
            speaker_id=parameters.speaker_id,
            values={} if usable == "none" else semantics.values,
            fingerprints=semantics.fingerprints,
            time_course=parameters.time_course,
        )
        with timed(timing_ms, "score"), _service_errors():
            scored: Scored = await self._scorer.score.remote(job)
        if scored.error is not None:
            raise scored.error
        if scored.score is None or scored.model is None:  # a replica that could not load what another one serves
            raise no_champion(await self._scorer.status.remote())
        return build_reply(request_id, parameters, waveform, semantics, scored.model, scored.score, timing_ms)

    def _wait_s(self, budget_ms: float | None) -> float:
        limits = self._config.serve.limits
        return ((budget_ms or limits.max_budget_ms) - limits.scoring_reserve_ms) / 1000

    def _decode(self, request: ParsedRequest) -> Waveform:
        config, audio = self._config, request.audio
        if audio is None:
            assert request.parameters.uri is not None  # read_request refuses a request that has neither
            audio = fetch_audio(request.parameters.uri, config.serve.limits, config.lake.storage_options)
        return decode(audio, config.annotate.audio)

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(self._refresh_for_ever())
        yield
        refreshing.cancel()

    async def _refresh_for_ever(self) -> None:
        while True:
            try:
                await self._refresh()
            except Exception as error:  # the next attempt may succeed; requests report what they get until then
                logger.warning("cannot ask the scorer for its version: %s", error)
            await asyncio.sleep(self._config.serve.gateway.refresh_s)

    async def _refresh(self) -> None:
        """Ask the scorer which version it serves; switch to a new one after its stages are loaded."""
        with _service_errors():
            status: ModelStatus = await self._scorer.status.remote()
        known = self._status.version if self._status else None
        if status.version is not None and status.version != known:
            preparing = self._semantics.prepare(status.version)
            # A first version does not wait until its language model is loaded: until then its semantics are late.
            at_most_s = self._wait_s(None) if known is None and status.semantics != "cues" else None
            await asyncio.wait([preparing], timeout=at_most_s)
        self._status = status


@contextmanager
def _service_errors() -> Iterator[None]:
    """Translate what Serve raises when a deployment cannot take a request into errors of the API."""
    try:
        yield
    except BackPressureError as error:
        remedy = "Try again in a moment, or ask the operator to allow more replicas"
        raise ApiError("overloaded", error.message, remedy=remedy) from error
    except (DeploymentUnavailableError, RayActorError) as error:
        raise ApiError(
            "unavailable", f"a part of the service is down: {error}", remedy="Try again in a moment"
        ) from error
