"""annotate --plan: what a run would compute and reuse, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from emoray.lake import Lake
from emoray.stages import pipeline
from emoray_jobs import annotate, worklist

if TYPE_CHECKING:
    from emoray_jobs.config import Config


@dataclass(frozen=True)
class StagePlan:
    """What a run would do for one stage.

    Attributes:
        name: The stage.
        runs_in: `task` or `actor` (a pool that keeps weights).
        compute: Utterances without an outcome.
        reuse: Utterances with one.
        audio_s: Seconds of audio to put through it.
    """

    name: str
    runs_in: str
    compute: int
    reuse: int
    audio_s: float


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        corpus: Name of the corpus.
        stages: Per stage, in order.
        norms_hash: The norms at hand; None if they are yet to be fitted: every text stage is then to be computed.
    """

    corpus: str
    stages: list[StagePlan]
    norms_hash: str | None


def run(config: Config, *, splits: Sequence[str] = ()) -> Plan:
    """What `annotate` would compute and reuse now. Needs no Ray and changes nothing.

    Raises:
        LakeError: The corpus is not in the lake.
        InputError: The corpus has no such split.
    """
    lake = Lake(config.lake)
    rows = worklist.durations(annotate.of_splits(lake.utterances(config.corpus.name), splits))
    norms = annotate.known_norms(config, lake)
    norms_hash = norms.hash if norms else None
    fingerprints = pipeline.fingerprints(config.annotate, norms_hash)
    stages = []
    for stage in (*pipeline.audio_stages(config.annotate), *pipeline.text_stages(config.annotate, None)):
        lacking = rows
        if stage.name in fingerprints:
            lacking = worklist.outstanding(lake, rows, [stage], fingerprints).rows
        reuse, audio_s = rows.height - lacking.height, float(lacking["seconds"].sum())
        stages.append(StagePlan(stage.name, stage.resources, lacking.height, reuse, audio_s))
    return Plan(config.corpus.name, stages, norms_hash)


def render(plan: Plan) -> RenderableType:
    """The plan, as it is printed."""
    table = Table(title=f"plan for {plan.corpus}", title_justify="left")
    for name in ("stage", "runs in"):
        table.add_column(name)
    for name in ("to compute", "to reuse", "hours of audio"):
        table.add_column(name, justify="right")
    for stage in plan.stages:
        cells = (f"{stage.compute:,}", f"{stage.reuse:,}", f"{stage.audio_s / 3600:.2f}")
        table.add_row(stage.name, stage.runs_in, *cells)
    return Group(table, f"norms {plan.norms_hash or 'to be fitted once prosody is measured'}")
