"""Running annotation stages for requests: in batches, with each model version's stages, as the offline jobs do."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from emoray.errors import ConfigError
from emoray.stages.base import WAVEFORM, Row, Stage
from emoray.stages.fingerprint import fingerprint
from emoray.stages.guard import BATCH_LEVEL_ERRORS, GuardConfig, run_isolating_rows
from emoray_serving.messages import Annotated, StageJob

#: Versions whose stages are kept in memory: the served one, the previous one, and one for a swap in progress.
KEPT_VERSIONS = 3
#: In place of a fingerprint that cannot be computed here.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class StageSet:
    """Stages as one model version was fitted with them.

    Attributes:
        stages: In order.
        fingerprints: Fingerprint by stage name.
        guard: Attempts and backoff.
        absent: Stages that cannot be run here, with the reason.
    """

    stages: Sequence[Stage]
    fingerprints: dict[str, str]
    guard: GuardConfig
    absent: Mapping[str, str] = field(default_factory=dict)


def chained_fingerprints(stages: Sequence[Stage], known: Mapping[str, str], norms_hash: str) -> dict[str, str]:
    """Fingerprints of some stages of a chain, as this installation computes them.

    Args:
        stages: In order.
    """
    found = dict(known)
    for stage in stages:
        # The waveform is the value of decode.
        names = {"decode" if name == WAVEFORM else name for name in (*stage.requires, *stage.uses)}
        inputs = {name: found[name] for name in sorted(names)}
        if stage.needs_norms:
            inputs["norms"] = norms_hash
        try:
            found[stage.name] = fingerprint(stage, inputs)
        except ConfigError:
            found[stage.name] = UNKNOWN  # its model is not installed here; running the stage reports that
    return {stage.name: found[stage.name] for stage in stages}


class StageRunner:
    """Annotates rows in one background thread, so that the event loop stays free.

    Args:
        build: Returns the stages of (version, variant); called in the thread, its result is cached.
    """

    def __init__(self, build: Callable[[str, str], StageSet]) -> None:
        self._build = build
        self._sets: OrderedDict[tuple[str, str], StageSet] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stages")

    async def prepare(self, version: str, variant: str, row: Row) -> None:
        """Load the stages of a version and their weights by running them on a row."""
        chosen = await asyncio.get_running_loop().run_in_executor(self._thread, self._stages, version, variant)
        await self.run([StageJob(version, variant, tuple(stage.name for stage in chosen.stages), row)])

    async def run(self, jobs: Sequence[StageJob]) -> list[Annotated]:
        """Annotate a batch; the jobs' rows are not changed. Results are in the order of the jobs."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, list(jobs))

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
