"""Collecting semantics before the deadline: words from the transcriber, emphasis and description from the describer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.serve.handle import DeploymentHandle

from emoray.engines.budget import LATE
from emoray.scoring.score import RequestedSemantics
from emoray.stages.base import WAVEFORM, Row
from emoray_serving.clip_semantics import GIVEN, RECOGNISED, ClipSemantics
from emoray_serving.messages import ALIGN, AS_FITTED, RECOGNISE, Annotated, StageJob
from emoray_serving.timing import timed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A clip whose semantics are requested.

    Attributes:
        samples: float32 (S,), mono, 16 kHz.
        transcript: The given transcript, if there is one.
        speaker_id: Speaker, if known.
        semantics: Requested level: `transcript` or `full`.
        hears: Whether the version's semantics are written by a model that hears the clip.
        transcripts: Sources of words that the version knows, by the fingerprint of their stage.
        recogniser: The recogniser for missing words.
        deadline: End of the wait, on the clock of `time.perf_counter`.
    """

    request_id: str
    samples: npt.NDArray[np.float32]
    transcript: str | None
    speaker_id: str | None
    semantics: RequestedSemantics
    version: str
    hears: bool
    transcripts: Mapping[str, str]
    recogniser: str
    deadline: float

    @property
    def row(self) -> Row:
        """The clip's row for the stages, without its samples."""
        return {"utterance_id": self.request_id, "transcript": self.transcript, "speaker_id": self.speaker_id}


class SemanticsClient:
    """Calls the transcriber and the describer."""

    def __init__(self, transcriber: DeploymentHandle, describer: DeploymentHandle) -> None:
        self._transcriber = transcriber
        self._describer = describer
        self._preparing: tuple[str, asyncio.Task[None]] | None = None

    def prepare(self, version: str) -> asyncio.Task[None]:
        """Have both deployments load a version's stages; calls for one version share the task.

        If one of them cannot, the version is served all the same: that part of the semantics is absent, with the
        reason, and the audio is scored.
        """
        if self._preparing is None or self._preparing[0] != version:
            self._preparing = version, asyncio.create_task(self._prepare(version))
        return self._preparing[1]

    async def _prepare(self, version: str) -> None:
        for handle in (self._transcriber, self._describer):
            try:
                await handle.prepare.remote(version)
            except Exception:
                logger.exception("%s cannot prepare version %s", handle.deployment_name, version)

    async def collect(self, clip: Clip, timing_ms: dict[str, float]) -> ClipSemantics:
        """Collect what is ready by the deadline; the rest is marked as missing, with the reason."""
        with timed(timing_ms, "transcribe"):
            semantics = await self._words(clip)
        if "prosody" in semantics.values:
            with timed(timing_ms, "describe"):
                await self._description(clip, semantics)
        else:
            semantics.mark_missing("description", semantics.absent["prosody"])
        return semantics

    async def _words(self, clip: Clip) -> ClipSemantics:
        semantics = ClipSemantics(source=GIVEN if clip.transcript else RECOGNISED)
        wanted: tuple[str, ...] = ("prosody", "transcribe")
        if semantics.source == RECOGNISED and clip.recogniser == "none":
            semantics.mark_missing("transcript", "none was given, and this service has no recogniser")
            wanted = ("prosody",)
        variant = ALIGN if semantics.source == GIVEN else RECOGNISE
        row = {**clip.row, WAVEFORM: clip.samples}
        found = await self._call(self._transcriber, clip, StageJob(clip.version, variant, wanted, row))
        fits = found.fingerprints.get("transcribe") in clip.transcripts
        if "transcribe" in found.values and not fits:
            how = "given" if semantics.source == GIVEN else f"recognised by {clip.recogniser}"
            what = f"the words were {how}, but version {clip.version} was fitted with another kind of transcript"
            semantics.mark_missing("transcript", what)
        semantics.add(found, display_only=() if fits else ("transcribe",))
        return semantics

    async def _description(self, clip: Clip, semantics: ClipSemantics) -> None:
        """Emphasis and description, from the values that the version may use."""
        usable = {**clip.row, **semantics.values}
        if clip.hears and clip.semantics == "full":
            usable[WAVEFORM] = clip.samples
        jobs: list[tuple[tuple[str, ...], Row, bool]] = []
        if "transcribe" in semantics.values:
            jobs.append((("emphasis", "semantics") if clip.semantics == "full" else ("emphasis",), usable, False))
        else:
            if "transcribe" in semantics.shown:
                jobs.append((("emphasis",), {**clip.row, **semantics.shown}, True))
            if clip.semantics == "full":  # of the delivery alone: the scorer has no figures for it without words
                jobs.append((("semantics",), usable, True))
        calls = [
            self._call(self._describer, clip, StageJob(clip.version, AS_FITTED, wanted, row)) for wanted, row, _ in jobs
        ]
        for (wanted, _, display_only), found in zip(jobs, await asyncio.gather(*calls), strict=True):
            semantics.add(found, display_only=wanted if display_only else ())

    async def _call(self, handle: DeploymentHandle, clip: Clip, job: StageJob) -> Annotated:
        """Run one job. If it fails or is late, the result says why; the request goes on without it."""
        remaining_s = clip.deadline - time.perf_counter()
        if remaining_s <= 0:
            return job.failed(LATE)
        response = handle.annotate.remote(replace(job, budget_s=remaining_s))
        try:
            return await asyncio.wait_for(_result(response), remaining_s)
        except TimeoutError:
            response.cancel()
            return job.failed(LATE)
        except Exception as error:
            logger.exception("%s failed for request %s", handle.deployment_name, clip.request_id)
            return job.failed(f"the {handle.deployment_name.lower()} failed ({type(error).__name__})")


async def _result(response: Any) -> Any:
    # `wait_for` needs a coroutine; a DeploymentResponse is only awaitable.
    return await response
