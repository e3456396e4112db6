"""enrol: a speaker's norms from a few recordings, kept on the lake for `score` and for the service.

Only means of measures are kept, of prosody and of acoustic features where the version uses them, never sound or words.
They count for versions that measure as the named one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from emoray.errors import InputError
from emoray.lake.speakers import store_speaker
from emoray.lake.tables import Lake
from emoray.models.build import frontend
from emoray.models.frontend import sound_means
from emoray.registry import versions
from emoray.registry.tracking import connect
from emoray.registry.versions import CHAMPION
from emoray.scoring.bundle import open_bundle
from emoray.scoring.bundle_files import FittedStages
from emoray.stages import pipeline
from emoray.stages.base import WAVEFORM, Stage
from emoray.stages.decode import Decode
from emoray.stages.norms import speaker_means
from emoray.stages.prosody import MeasureProsody
from emoray.stages.transcribe.stage import build_transcribe
from emoray_jobs.evaluate.predictions import find_version
from emoray_jobs.progress import spinner
from emoray_jobs.score.sources import read_sources

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: With fewer, a speaker's norms rest mostly on the corpus.
ADVISED_CLIPS = 5


@dataclass(frozen=True)
class EnrolResult:
    """A speaker's enrolment.

    Attributes:
        clips: Recordings that the norms rest on.
        left_out: Recording → why it could not be used.
        address: Where the norms are kept.
    """

    speaker_id: str
    clips: int
    left_out: dict[str, str]
    address: str


def run(config: Config, *, speaker: str, sources: Sequence[str], model: str | None = None) -> EnrolResult:
    """Measure a speaker's usual way of speaking; an earlier enrolment is replaced.

    Raises:
        InputError: There is nothing to read, or no recording can be used (`nothing_enrolled`).
        RegistryError: There is no such version.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    fitted = open_bundle(versions.fetch(tracking, find_version(tracking, model or CHAMPION)))
    rows = read_sources(config.corpus.manifest, sources, None)[1].to_pylist()
    with spinner(f"measuring {len(rows):,} recordings"):
        done = pipeline.annotate_rows(_stages(fitted, config.lake.storage_options), rows, fitted.annotate.guard)
    left_out = {
        one.utterance_id: f"{(decoded.error or one.error)['message']}"  # type: ignore[index]  # one of them failed
        for decoded, one in zip(done[Decode.name], done[MeasureProsody.name], strict=True)
        if one.value is None
    }
    clips = [row for row in rows if row.get(MeasureProsody.name) is not None]
    if not clips:
        raise InputError(
            f"none of {len(rows):,} recordings can be used: {next(iter(left_out.values()))}",
            remedy="Give recordings of this speaker that can be heard, better five",
            kind="nothing_enrolled",
        )
    if fitted.config.encoder.speaker_norms:
        front = frontend(fitted.config.encoder)
        with spinner("measuring the sound"):
            means = sound_means(front, (row[WAVEFORM] for row in clips))
        store_speaker(lake, speaker, front.fingerprint, means)
    address = store_speaker(lake, speaker, fitted.fingerprints[MeasureProsody.name], speaker_means(clips))
    return EnrolResult(speaker, len(clips), left_out, address)


def _stages(fitted: FittedStages, storage_options: dict[str, Any]) -> list[Stage]:
    """Decode, prosody, and words if the version knows a recogniser: the rate of speech is measured in letters."""
    annotate = fitted.annotate
    stages: list[Stage] = [Decode(annotate.audio, storage_options), MeasureProsody(annotate.prosody)]
    if fitted.known_recogniser is not None:
        stages.append(build_transcribe(annotate.transcribe.model_copy(update={"kind": fitted.known_recogniser})))
    return stages


def render(result: EnrolResult) -> RenderableType:
    """The result as it is printed."""
    lines = [f"{result.speaker_id!r} is enrolled with {result.clips} recordings: {result.address}"]
    lines += [f"left out: {name}: {why}" for name, why in result.left_out.items()]
    if result.clips < ADVISED_CLIPS:
        lines.append(f"With fewer than {ADVISED_CLIPS} recordings the norms rest mostly on the corpus")
    return Text("\n".join(lines))
