"""The transcriber deployment: prosody and words of a clip, by the stages that the model version was fitted with."""

from __future__ import annotations

from ray import serve

from emoray.stages.prosody import MeasureProsody
from emoray.stages.transcribe.config import TranscribeConfig
from emoray.stages.transcribe.stage import build_transcribe
from emoray_serving.config import AppConfig
from emoray_serving.messages import ALIGN, RECOGNISE, Annotated, StageJob
from emoray_serving.stage_runner import StageRunner, StageSet, chained_fingerprints
from emoray_serving.versions import Versions
from emoray_serving.warmup import limit_threads, set_batching, warm_up_row


class Transcriber:
    """Aligns given transcripts and recognises missing ones.

    A given transcript is aligned with the options that the version was fitted with. A missing one is recognised by the
    configured recogniser; unless the version was fitted with that recogniser, the words have another fingerprint and
    count as absent.
    """

    def __init__(self, config: AppConfig) -> None:
        options = config.serve.transcriber
        limit_threads(options.threads)
        self._recogniser = options.recogniser
        self._versions = Versions(config)
        self._runner = StageRunner(self._build)
        set_batching(self.annotate, options.batch)

    async def prepare(self, version: str) -> None:
        """Load a version's stages."""
        for variant in (ALIGN, RECOGNISE):
            await self._runner.prepare(version, variant, warm_up_row())

    @serve.batch
    async def annotate(self, jobs: list[StageJob]) -> list[Annotated]:
        """Values of `prosody` and `transcribe` for each job's row (waveform, and transcript if given)."""
        return await self._runner.run(jobs)

    def _build(self, version: str, variant: str) -> StageSet:
        fitted = self._versions.fitted(version)
        kind = "reference" if variant == ALIGN or self._recogniser == "none" else fitted.recogniser(self._recogniser)
        config = fitted.annotate.transcribe.model_copy(update={"kind": kind})
        prosody = MeasureProsody(fitted.annotate.prosody)
        prints = chained_fingerprints([prosody, build_transcribe(config)], fitted.fingerprints, fitted.norms.hash)
        return StageSet([prosody, build_transcribe(without_corpus_times(config))], prints, fitted.annotate.guard)


def without_corpus_times(config: TranscribeConfig) -> TranscribeConfig:
    """The options for clips without a corpus: aligned word times in place of the corpus's."""
    if config.reference.times != "corpus":
        return config
    return config.model_copy(update={"reference": config.reference.model_copy(update={"times": "auto"})})
