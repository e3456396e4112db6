"""Running annotation stages for requests: in batches, with each model version's stages, as the offline jobs do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from emoray.engines.budget import LATE, budget
from emoray.errors import ConfigError
from emoray.stages.base import Row, Stage
from emoray.stages.fingerprint import chained_fingerprint
from emoray.stages.guard import BATCH_LEVEL_ERRORS, GuardConfig, run_isolating_rows
from emoray_serving.messages import Annotated, StageJob

logger = logging.getLogger(__name__)

#: Versions whose stages are kept in memory: the served one, the previous one, and one for a swap in progress.
KEPT_VERSIONS = 3
#: In place of a fingerprint that cannot be computed here.
UNKNOWN = "unknown"
#: Of a budget, kept for the way back: what is ready then is still used, and the caller gets the reason for the rest.
RETURN_S = 0.05
#: Time for the question that a new version's engine is asked, if it has nothing to load.
FIRST_QUESTION_S = 5.0


@dataclass(frozen=True)
class StageSet:
    """Stages as one model version was fitted with them.

    Attributes:
        fingerprints: Fingerprint by stage name.
        absent: Stages that cannot be run here, with the reason.
        asking: Stages that ask an engine, after the others: each clip in its own thread, as the engine forms batches
            itself, and no clip waits for another's answer.
    """

    stages: Sequence[Stage]
    fingerprints: dict[str, str]
    guard: GuardConfig
    absent: Mapping[str, str] = field(default_factory=dict)
    asking: Sequence[Stage] = ()


def chained_fingerprints(stages: Sequence[Stage], known: Mapping[str, str], norms_hash: str) -> dict[str, str]:
    """Fingerprints of some stages of a chain, in order, as this installation computes them."""
    found = dict(known)
    for stage in stages:
        try:
            found[stage.name] = chained_fingerprint(stage, found, norms_hash)
        except ConfigError:
            found[stage.name] = UNKNOWN  # its model is not installed here; running the stage reports that
    return {stage.name: found[stage.name] for stage in stages}


class StageRunner:
    """Annotates rows in background threads, so that the event loop stays free: one, and one for each open question.

    Args:
        build: Returns the stages of (version, variant); called in the thread, its result is cached.
        questions: Rows for which an engine is asked at a time.
        retry_s: Time for which an engine that failed as a whole, whatever the row, is not asked again.
    """

    def __init__(self, build: Callable[[str, str], StageSet], *, questions: int = 1, retry_s: float = 0.0) -> None:
        self._build = build
        self._retry_s = retry_s
        self._sets: OrderedDict[tuple[str, str], StageSet] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stages")
        self._askers = ThreadPoolExecutor(max_workers=questions, thread_name_prefix="ask")
        self._answered_at = 0.0
        self._refused: dict[tuple[str, str], tuple[float, str]] = {}  # until when, and why

    async def prepare(self, version: str, variant: str, row: Row) -> None:
        """Load the stages of a version and their weights by running them on a row."""
        chosen = await self._chosen(version, variant)
        wanted = tuple(stage.name for stage in (*chosen.stages, *chosen.asking))
        waits = any(stage.waits for stage in chosen.asking)
        job = StageJob(version, variant, wanted, row, FIRST_QUESTION_S if waits else None)
        (found,) = await self.run([job])
        found = await self.ask(job, found)
        for name, reason in {**chosen.absent, **found.errors}.items():
            logger.warning("version %s: no %s: %s", version, name, reason)

    async def run(self, jobs: Sequence[StageJob]) -> list[Annotated]:
        """Annotate a batch but for `asking`; the jobs' rows are not changed. Results are in the order of the jobs."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, list(jobs))

    async def ask(self, job: StageJob, found: Annotated, *, since: float | None = None) -> Annotated:
        """Run the stages of `asking` on a job's row and the values that `run` found, within the job's budget.

        Args:
            since: When the budget began, on the clock of `time.monotonic`; by default now.
        """
        ends_at = None
        if job.budget_s is not None:
            ends_at = (time.monotonic() if since is None else since) + job.budget_s - RETURN_S
        known = self._sets.get((job.version, job.variant))
        chosen = known or await self._chosen(job.version, job.variant)
        for stage in chosen.asking:
            if stage.name in job.wanted:
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._askers, self._ask, stage, chosen, job, found, ends_at)
        return found

    async def _chosen(self, version: str, variant: str) -> StageSet:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._stages, version, variant)

    def _ask(self, stage: Stage, chosen: StageSet, job: StageJob, found: Annotated, ends_at: float | None) -> Annotated:
        began = time.monotonic()
        engine = job.version, stage.name
        until, reason = self._refused.get(engine, (0.0, ""))
        if began < until:
            return _without(found, stage, reason)
        if ends_at is not None and began >= ends_at:  # it waited for a thread
            return _without(found, stage, LATE)
        try:
            with budget(ends_at - began) if ends_at is not None else contextlib.nullcontext():
                (outcome,) = run_isolating_rows(stage, [{**job.row, **found.values}], chosen.guard)
        except BATCH_LEVEL_ERRORS as error:
            if self._answered_at < began:  # other rows are not answered either
                self._refused[engine] = time.monotonic() + self._retry_s, str(error)
            return _without(found, stage, str(error))
        if not outcome.stays_to_do:
            self._answered_at = time.monotonic()
        if outcome.value is None:
            assert outcome.error is not None
            return _without(found, stage, outcome.error["message"])
        return Annotated(
            {**found.values, stage.name: outcome.value},
            {**found.fingerprints, stage.name: chosen.fingerprints[stage.name]},
            found.errors,
        )

    def _stages(self, version: str, variant: str) -> StageSet:
        key = (version, variant)
        if key not in self._sets:
            self._sets[key] = self._build(version, variant)
            while len({held for held, _ in self._sets}) > KEPT_VERSIONS:
                self._sets.popitem(last=False)
        self._sets.move_to_end(key)
        return self._sets[key]

    def _run(self, jobs: list[StageJob]) -> list[Annotated]:
        results = [Annotated() for _ in jobs]
        groups: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault((job.version, job.variant, job.wanted), []).append(index)
        for (version, variant, wanted), members in groups.items():
            chosen = self._stages(version, variant)
            stages = [stage for stage in chosen.stages if stage.name in wanted]
            rows = [dict(jobs[index].row) for index in members]
            for name in set(wanted) & set(chosen.absent):
                for index in members:
                    results[index].errors[name] = chosen.absent[name]
            for stage in stages:
                try:
                    outcomes = run_isolating_rows(stage, rows, chosen.guard)
                except BATCH_LEVEL_ERRORS as error:  # no engine: the other stages' values are still valid
                    for index in members:
                        results[index].errors[stage.name] = str(error)
                    continue
                for index, outcome in zip(members, outcomes, strict=True):
                    if outcome.value is not None:
                        results[index].values[stage.name] = outcome.value
                        results[index].fingerprints[stage.name] = chosen.fingerprints[stage.name]
                    elif outcome.error is not None:
                        results[index].errors[stage.name] = outcome.error["message"]
        return results


def _without(found: Annotated, stage: Stage, reason: str) -> Annotated:
    return Annotated(found.values, found.fingerprints, {**found.errors, stage.name: reason})
