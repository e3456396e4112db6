"""The scorer deployment: holds the version that the alias names, scores in batches, swaps without losing a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ray import serve

from emoray.errors import EmorayError, ServiceError
from emoray.scoring.score import ScoreRequest
from emoray.scoring.scorer import Scorer
from emoray_serving.alias_watcher import AliasWatcher, Loaded
from emoray_serving.config import AppConfig
from emoray_serving.http.schemas import ModelInfo, ModelStatus, Scale
from emoray_serving.messages import Scored, ScoreJob
from emoray_serving.versions import Versions
from emoray_serving.warmup import limit_threads, set_batching, warm_up_row

logger = logging.getLogger(__name__)


class ScorerReplica:
    """One replica of the scorer."""

    async def __init__(self, config: AppConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        options = config.serve.scorer
        limit_threads(options.threads)
        self._config = config
        self._versions = Versions(config)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="score")
        self._watch: AliasWatcher[Scorer] = AliasWatcher(
            self._versions.lookup,
            self._load,
            poll_s=options.poll_s,
            keep_previous_s=options.keep_previous_s,
            retry_max_s=options.retry_max_s,
        )
        set_batching(self.score, options.batch)
        await self._watch.check()  # a replica takes no request before the first check
        self._watching = asyncio.create_task(self._watch.run())

    async def status(self) -> ModelStatus:
        """The served version, and why another one could not be loaded."""
        options, current = self._config.serve, self._watch.current
        bundle = current.value.bundle if current else None
        return ModelStatus(
            name=self._config.tracking.model_name,
            alias=options.scorer.alias,
            version=current.version if current else None,
            scale=Scale(min=bundle.scale[0], max=bundle.scale[1]) if bundle and bundle.scale else None,
            level=bundle.conformal_level if bundle else None,
            classes=list(bundle.config.classes) if bundle else [],
            stage_fingerprints=dict(bundle.fingerprints) if bundle else {},
            transcripts=dict(bundle.transcripts) if bundle else {},
            recogniser=bundle.recogniser(options.transcriber.recogniser) if bundle else options.transcriber.recogniser,
            semantics=bundle.annotate.semantics.kind if bundle else None,
            failure=self._watch.failure,
        )

    @serve.batch
    async def score(self, jobs: list[ScoreJob]) -> list[Scored]:
        """Score clips in a batch; a clip that fails gets its own error."""
        by_version: dict[str | None, list[int]] = {}
        chosen = [self._watch.get(job.version) for job in jobs]
        for index, loaded in enumerate(chosen):
            by_version.setdefault(loaded.version if loaded else None, []).append(index)
        results = [Scored() for _ in jobs]
        for members in by_version.values():
            loaded = chosen[members[0]]
            loop = asyncio.get_running_loop()
            part = await loop.run_in_executor(
                self._thread, self._score_with, loaded, [jobs[index] for index in members]
            )
            for index, result in zip(members, part, strict=True):
                results[index] = result
        return results

    def check_health(self) -> None:
        """Called by Serve: a replica whose watcher has ended would keep serving an old version."""
        if self._watching.done():
            raise RuntimeError("the watcher of the alias has ended")

    def _load(self, version: str) -> Scorer:
        scorer = self._versions.load(version)
        row, prints = warm_up_row(), scorer.bundle.fingerprints
        values = {name: row[name] for name in ("prosody", "transcribe", "semantics")}
        scorer.score([ScoreRequest(row["waveform"], stage_values=values, stage_fingerprints=prints)])
        return scorer

    def _score_with(self, loaded: Loaded[Scorer] | None, jobs: Sequence[ScoreJob]) -> list[Scored]:
        if loaded is None:
            return [Scored() for _ in jobs]
        model = ModelInfo(
            name=self._config.tracking.model_name, version=loaded.version, alias=self._config.serve.scorer.alias
        )
        try:
            scores = loaded.value.score([_request(job) for job in jobs])
        except Exception as error:
            if len(jobs) > 1:  # score one by one: only the clip that fails gets the error
                return [one for job in jobs for one in self._score_with(loaded, [job])]
            if not isinstance(error, EmorayError):
                logger.exception("scoring failed")
                error = ServiceError(f"scoring failed: {error}", kind="internal_error")
            return [Scored(error=error)]
        return [Scored(model=model, score=score) for score in scores]


def _request(job: ScoreJob) -> ScoreRequest:
    return ScoreRequest(
        samples=job.samples,
        speaker_id=job.speaker_id,
        semantics=job.semantics,
        stage_values=job.values,
        stage_fingerprints=job.fingerprints,
        time_course=job.time_course,
    )
