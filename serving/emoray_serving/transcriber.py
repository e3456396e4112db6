"""The transcriber deployment: prosody and words of a clip, by the stages that the model version was fitted with."""

from __future__ import annotations

from ray import serve

from emoray.stages.prosody import MeasureProsody
from emoray.stages.transcribe.config import TranscribeConfig
from emoray.stages.transcribe.stage import build_transcribe
from emoray_serving.config import AppConfig
from emoray_serving.messages import GIVEN, RECOGNISED, Annotated, StageJob
from emoray_serving.stage_runner import StageRunner, StageSet, chained_fingerprints
from emoray_serving.versions import Versions
from emoray_serving.warmup import limit_threads, set_batching, warm_up_row


class Transcriber:
    """Aligns given transcripts and recognises missing ones.

    A given transcript goes through the version's own stage if it was fitted with given transcripts. A missing one goes
    through the configured recogniser; unless the version was fitted with that one, the words carry another fingerprint
    and count as absent.

    Args:
        config: Configuration of the application.
    """

    def __init__(self, config: AppConfig) -> None:
        own = config.serve.transcriber
        limit_threads(own.threads)
        self._recogniser = own.recogniser
        self._versions = Versions(config)
        self._runner = StageRunner(self._build)
        set_batching(self.annotate, own.batch)

    async def prepare(self, version: str) -> None:
        """Have a version's stages ready."""
        for variant in (GIVEN, RECOGNISED):
            await self._runner.prepare(version, variant, warm_up_row())

    @serve.batch
    async def annotate(self, jobs: list[StageJob]) -> list[Annotated]:
        """Values of `prosody` and `transcribe` for each job's row (its waveform, and its transcript if `given`)."""
        return await self._runner.run(jobs)

    def _build(self, version: str, variant: str) -> StageSet:
        fitted = self._versions.fitted(version)
        kind = "reference" if variant == GIVEN or self._recogniser == "none" else self._recogniser
        config = fitted.annotate.transcribe.model_copy(update={"kind": kind})
        prosody = MeasureProsody(fitted.annotate.prosody)
        prints = chained_fingerprints([prosody, build_transcribe(config)], fitted.fingerprints, fitted.norms.hash)
        return StageSet([prosody, build_transcribe(without_corpus_times(config))], prints, fitted.annotate.guard)


def without_corpus_times(config: TranscribeConfig) -> TranscribeConfig:
    """The same, fit for clips without a corpus: where the version took the corpus's word times, they are aligned."""
    if config.reference.times != "corpus":
        return config
    return config.model_copy(update={"reference": config.reference.model_copy(update={"times": "auto"})})
