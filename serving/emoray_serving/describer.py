"""The describer deployment: emphasis and extended semantics of a clip whose prosody and words are known."""

from __future__ import annotations

from ray import serve

from emoray.stages.base import WAVEFORM
from emoray.stages.pipeline import text_stages
from emoray_serving.config import AppConfig
from emoray_serving.messages import AS_FITTED, Annotated, StageJob
from emoray_serving.stage_runner import StageRunner, StageSet, chained_fingerprints
from emoray_serving.versions import Versions
from emoray_serving.warmup import limit_threads, set_batching, warm_up_row

STAGES = ("emphasis", "semantics")
NO_AUDIO_MODEL = (
    "version {version} was fitted with semantics by a model that reads the audio; this service has no such model"
)


class Describer:
    """Finds the emphasised words and writes the description, with the norms that the model version carries."""

    def __init__(self, config: AppConfig) -> None:
        options = config.serve.describer
        limit_threads(options.threads)
        self._versions = Versions(config)
        self._runner = StageRunner(self._build)
        set_batching(self.annotate, options.batch)

    async def prepare(self, version: str) -> None:
        """Load a version's stages."""
        await self._runner.prepare(version, AS_FITTED, warm_up_row())

    @serve.batch
    async def annotate(self, jobs: list[StageJob]) -> list[Annotated]:
        """Values of `emphasis` and `semantics` for each job's row (which holds the transcriber's values)."""
        return await self._runner.run(jobs)

    def _build(self, version: str, _variant: str) -> StageSet:
        fitted = self._versions.fitted(version)
        stages = [
            stage
            for stage in text_stages(fitted.annotate, fitted.norms)
            if stage.name in STAGES and WAVEFORM not in stage.requires
        ]
        prints = chained_fingerprints(stages, fitted.fingerprints, fitted.norms.hash)
        absent = {} if len(stages) == len(STAGES) else {"semantics": NO_AUDIO_MODEL.format(version=version)}
        return StageSet(stages, prints, fitted.annotate.guard, absent)
