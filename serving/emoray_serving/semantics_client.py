"""Gathering semantics before the deadline: words from the transcriber, emphasis and description from the describer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.serve.handle import DeploymentHandle

from emoray.scoring.score import RequestedSemantics
from emoray.stages.base import Row
from emoray_serving.clip_semantics import ClipSemantics
from emoray_serving.config import Recogniser
from emoray_serving.messages import GIVEN, OWN, RECOGNISED, Annotated, StageJob
from emoray_serving.timing import timed

logger = logging.getLogger(__name__)

LATE = "the budget ran out before it was ready"


@dataclass(frozen=True)
class Clip:
    """A clip whose meaning is asked for.

    Attributes:
        request_id: The request.
        samples: float32 (S,), mono, 16 kHz.
        transcript: What is said, if it was given.
        speaker_id: Speaker, if known.
        semantics: How much is wanted: `transcript` or `full`.
        version: Version that will score.
        fitted: Fingerprint by stage of what it was fitted with.
        deadline: When to stop waiting, on the clock of `time.perf_counter`.
    """

    request_id: str
    samples: npt.NDArray[np.float32]
    transcript: str | None
    speaker_id: str | None
    semantics: RequestedSemantics
    version: str
    fitted: Mapping[str, str]
    deadline: float

    @property
    def row(self) -> Row:
        """The clip as the stages read it, without its samples."""
        return {"utterance_id": self.request_id, "transcript": self.transcript, "speaker_id": self.speaker_id}


class SemanticsClient:
    """Asks the two deployments.

    Args:
        transcriber: Handle of the transcriber.
        describer: Handle of the describer.
        recogniser: What the transcriber recognises missing transcripts with.
    """

    def __init__(self, transcriber: DeploymentHandle, describer: DeploymentHandle, recogniser: Recogniser) -> None:
        self._transcriber = transcriber
        self._describer = describer
        self._recogniser = recogniser

    async def prepare(self, version: str) -> None:
        """Have a version's stages brought up beside the old ones.

        A deployment that cannot is no reason to refuse the version: its part will be absent, with the reason, and the
        sound can be scored all the same.
        """
        for handle in (self._transcriber, self._describer):
            try:
                await handle.prepare.remote(version)
            except Exception:
                logger.exception("%s cannot prepare version %s", handle.deployment_name, version)

    async def gather(self, clip: Clip, timing_ms: dict[str, float]) -> ClipSemantics:
        """Collect what is ready by the deadline; what is not is noted with its reason."""
        with timed(timing_ms, "transcribe"):
            evidence = await self._words(clip)
        if "prosody" in evidence.values:
            with timed(timing_ms, "describe"):
                await self._description(clip, evidence)
        else:
            evidence.mark_missing("description", evidence.absent["prosody"])
        return evidence

    async def _words(self, clip: Clip) -> ClipSemantics:
        evidence = ClipSemantics(source=GIVEN if clip.transcript else RECOGNISED)
        wanted: tuple[str, ...] = ("prosody", "transcribe")
        if evidence.source == RECOGNISED and self._recogniser == "none":
            evidence.mark_missing("transcript", "none was given, and this service has no recogniser")
            wanted = ("prosody",)
        row = {**clip.row, "waveform": clip.samples}
        found = await self._ask(self._transcriber, clip, StageJob(clip.version, evidence.source, wanted, row))
        fits = found.fingerprints.get("transcribe") == clip.fitted.get("transcribe")
        if "transcribe" in found.values and not fits:
            how = "given" if evidence.source == GIVEN else f"recognised by {self._recogniser}"
            what = f"the words were {how}, but version {clip.version} was fitted with another kind of transcript"
            evidence.mark_missing("transcript", what)
        evidence.add(found, display_only=() if fits else ("transcribe",))
        return evidence

    async def _description(self, clip: Clip, evidence: ClipSemantics) -> None:
        """Emphasis and description, each from no more than the version may see."""
        usable = {**clip.row, **evidence.values}
        jobs: list[tuple[tuple[str, ...], Row, bool]] = []
        if "transcribe" in evidence.values:
            jobs.append((("emphasis", "semantics") if clip.semantics == "full" else ("emphasis",), usable, False))
        else:
            if "transcribe" in evidence.shown:
                jobs.append((("emphasis",), {**clip.row, **evidence.shown}, True))
            if clip.semantics == "full":  # a description can rest on the delivery alone
                jobs.append((("semantics",), usable, False))
        asked = (self._ask(self._describer, clip, StageJob(clip.version, OWN, wanted, row)) for wanted, row, _ in jobs)
        for (wanted, _, display_only), found in zip(jobs, await asyncio.gather(*asked), strict=True):
            evidence.add(found, display_only=wanted if display_only else ())

    async def _ask(self, handle: DeploymentHandle, clip: Clip, job: StageJob) -> Annotated:
        """One answer. Whatever keeps it from coming is the reason for what is then absent, never the request's end."""
        remaining_s = clip.deadline - time.perf_counter()
        if remaining_s <= 0:
            return job.failed(LATE)
        response = handle.annotate.remote(job)
        try:
            return await asyncio.wait_for(_result(response), remaining_s)
        except TimeoutError:
            response.cancel()
            return job.failed(LATE)
        except Exception as error:
            logger.exception("%s failed for request %s", handle.deployment_name, clip.request_id)
            return job.failed(f"the {handle.deployment_name.lower()} failed ({type(error).__name__})")


async def _result(response: Any) -> Any:
    # `wait_for` wants a coroutine; a DeploymentResponse is only awaitable.
    return await response
