"""What an annotate run did: every utterance in exactly one class, each stage's outcomes, and how that is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Group, RenderableType

from emoray.errors import ErrorBudgetExceeded, LakeError
from emoray.lake.tables import Lake
from emoray.stages.base import Stage
from emoray.stages.conditions import Condition
from emoray_jobs.pipeline import pending
from emoray_jobs.pipeline.executor import RunResources, StageExecutor
from emoray_jobs.pipeline.rates import price
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import PlanConfig

#: Reason of an utterance that the caller's choice of splits leaves out.
REASON_SPLIT = "split"
#: The one error that is nobody's failure: the transcript came without word times and none can be had.
MISSING_WORD_TIMES = "missing_word_times"


@dataclass(frozen=True)
class Counts:
    """What became of the utterances: every one is complete, partial, quarantined or filtered.

    Attributes:
        utterances: Rows of the corpus.
        complete: Every stage has a value.
        partial: Decoded, but some later stage has an error in place of its value.
        quarantined: Could not be decoded.
        filtered: Left out on purpose, by reason.
        untimed: Those of the partial ones that lack only emphasis, for want of word times: no failure.
    """

    utterances: int
    complete: int
    partial: int
    quarantined: int
    filtered: dict[str, int]
    untimed: int = 0

    @property
    def attempted(self) -> int:
        """Utterances that were not left out."""
        return self.utterances - sum(self.filtered.values())


@dataclass(frozen=True)
class StageSummary:
    """What a run did for one stage.

    Attributes:
        computed: Outcomes of this run.
        reused: Outcomes that were there before.
        failed: Errors among both, by type.
        busy_s: Time spent in the stage, over all processes.
        audio_s: Seconds of audio that this run put through it.
    """

    name: str
    fingerprint: str
    computed: int
    reused: int
    failed: dict[str, int]
    busy_s: float
    audio_s: float

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of audio; None if nothing was computed."""
        return self.busy_s / self.audio_s if self.audio_s else None


@dataclass(frozen=True)
class AnnotateResult:
    """What an annotate run did.

    Attributes:
        norms_hash: Which norms the text stages measured against.
        audio_s: Seconds of audio of the utterances that could be decoded.
        wall_s: How long the run took.
        resources: Who took part, and with how much memory.
        flush_rows: Rows per stage that the writer gathers before it writes a file.
        prices: What an hour and a token cost.
    """

    corpus: str
    condition: str
    counts: Counts
    stages: list[StageSummary]
    fingerprints: dict[str, str]
    norms_hash: str
    audio_s: float
    wall_s: float
    resources: RunResources
    flush_rows: int
    prices: PlanConfig
    further: Sequence[AnnotateResult] = ()

    @property
    def computed(self) -> int:
        """Outcomes of this run, over all stages."""
        return sum(stage.computed for stage in self.stages)


def classify_utterances(
    lake: Lake,
    utterances: int,
    kept: pl.DataFrame,
    filtered: pl.DataFrame,
    stages: Sequence[Stage],
    fingerprints: Mapping[str, str],
) -> Counts:
    """Sort every utterance into exactly one class, from the stage tables.

    Args:
        kept: utterance_id of those that were not left out, in order.
        stages: Every stage, in order; the first decides on quarantine.

    Raises:
        LakeError: Outcomes that were there are gone.
    """
    everything = pl.repeat(True, kept.height, eager=True)
    complete, wants_times, undecodable, failed_later = everything, everything, ~everything, ~everything
    for number, stage in enumerate(stages):
        found = pending.outcome_status(lake, stage.name, fingerprints[stage.name], kept["utterance_id"])
        failed = found["failed"].is_not_null()
        complete &= found["answered"] & ~failed
        wants_times &= found["answered"] & found["failed"].fill_null(MISSING_WORD_TIMES).eq(MISSING_WORD_TIMES)
        if number:
            failed_later |= failed
        else:
            undecodable = failed
    partial = failed_later & ~undecodable
    counts = Counts(
        utterances=utterances,
        complete=int(complete.sum()),
        partial=int(partial.sum()),
        quarantined=int(undecodable.sum()),
        filtered=dict(filtered.group_by("reason").len().sort("reason").iter_rows()),
        untimed=int((partial & wants_times).sum()),
    )
    missing = counts.attempted - counts.complete - counts.partial - counts.quarantined
    if missing:
        raise LakeError(
            f"{missing} utterances have lost outcomes that they had: another run forgets errors (--retry-failed), or a"
            " file was removed",
            where=lake.uri("annotations"),
            remedy="Run the same command again: what is done is kept",
            kind="table_in_flux",
        )
    return counts


def summarize_stage(lake: Lake, job: StageExecutor, stage: Stage, fingerprint: str) -> StageSummary:
    """What was done for a stage, read from its table."""
    outcomes = pending.outcome_status(lake, stage.name, fingerprint, job.utterance_lengths["utterance_id"])
    computed = outcomes["answered"] & job.lacked[stage.name]
    failed = outcomes.filter(pl.col("failed").is_not_null()).group_by("failed").len().sort("failed")
    return StageSummary(
        name=stage.name,
        fingerprint=fingerprint,
        computed=int(computed.sum()),
        reused=int((outcomes["answered"] & ~computed).sum()),
        failed=dict(failed.iter_rows()),
        busy_s=float(outcomes["elapsed_s"].filter(computed).cast(pl.Float64).sum()),
        audio_s=float(job.utterance_lengths["seconds"].filter(computed).sum()),
    )


def decoded_audio_s(lake: Lake, job: StageExecutor, decode_fingerprint: str) -> float:
    """Seconds of audio of the utterances that could be decoded."""
    outcome_status = pending.outcome_status(lake, "decode", decode_fingerprint, job.utterance_lengths["utterance_id"])
    return float(
        job.utterance_lengths["seconds"].filter(outcome_status["answered"] & outcome_status["failed"].is_null()).sum()
    )


def check_error_budget(counts: Counts, stages: Sequence[StageSummary], max_error_fraction: float) -> None:
    """Raise if too many utterances failed.

    Raises:
        ErrorBudgetExceeded: More than `max_error_fraction` of those that were tried.
    """
    failed = counts.partial - counts.untimed + counts.quarantined
    if failed <= max_error_fraction * counts.attempted:
        return
    kinds = [
        f"{stage.name}: {kind} ×{number}"
        for stage in stages
        for kind, number in stage.failed.items()
        if kind not in ("missing_input", MISSING_WORD_TIMES)
    ]
    raise ErrorBudgetExceeded(
        f"{failed} of {counts.attempted} utterances failed, more than"
        f" annotate.max_error_fraction={max_error_fraction:g} allows ({', '.join(kinds)})",
        remedy="Each error is in the stage tables. Fix the causes and run with --retry-failed, or raise the fraction",
    )


def render(result: AnnotateResult) -> RenderableType:
    """The summary, as it is printed."""
    figures = ("computed", "reused", "failed", "busy s", "real-time factor")
    table = titled_table(f"annotate {result.corpus}", ("stage", "fingerprint"), figures)
    for stage in result.stages:
        failed = ", ".join(f"{kind} {number}" for kind, number in stage.failed.items()) or "0"
        factor = "–" if stage.real_time_factor is None else f"{stage.real_time_factor:.4f}"
        cells = (f"{stage.computed:,}", f"{stage.reused:,}", failed, f"{stage.busy_s:.1f}", factor)
        table.add_row(stage.name, stage.fingerprint, *cells)
    counts, work = result.counts, result.resources
    partial = f"{counts.partial:,} partial" + (f" ({counts.untimed:,} without word times)" if counts.untimed else "")
    classes = f"{counts.complete:,} complete + {partial} + {counts.quarantined:,} quarantined"
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in counts.filtered.items())
    left_out = f"{counts.utterances - counts.attempted:,} filtered" + (f" ({reasons})" if reasons else "")
    busy = [f"{pool.name} {pool.busy_share:.0%} of {pool.workers}" for pool in work.pools]
    spilled = "unknown" if work.spilled_bytes is None else f"{work.spilled_bytes / 2**20:,.0f} MiB"
    return Group(
        table,
        f"{counts.utterances:,} utterances = {classes} + {left_out}",
        f"{result.audio_s / 3600:.2f} h of audio in {result.wall_s:.1f} s, norms {result.norms_hash}",
        f"peak memory {work.peak_memory_bytes / 2**20:,.0f} MiB over the driver and {work.processes} workers"
        + (f" on {work.nodes} nodes" if work.nodes > 1 else "")
        + f", spilled to disk: {spilled}",
        *([f"workers at work: {', '.join(busy)}"] if busy else []),
        *_spending(result),
        *map(_further, result.further),
        f"A kill costs at most the rows in flight and {result.flush_rows:,} buffered per stage; run it again to resume",
    )


def _further(result: AnnotateResult) -> str:
    """What was done under a further condition, in a line."""
    stages = [
        f"{stage.name} {stage.computed:,}" + (f" ({sum(stage.failed.values()):,} failed)" if stage.failed else "")
        for stage in result.stages
        if stage.computed
    ]
    done = ", ".join(stages) or "nothing to do"
    return f"{Condition.named(result.condition).title}: {done}, in {result.wall_s:.1f} s"


def _spending(result: AnnotateResult) -> list[RenderableType]:
    """What each stage took, beside what was planned."""
    if not result.resources.spending:
        return []
    figures = ("planned", "took", "of planned", "loading", "price")
    table = titled_table("machine time by stage: planned, and measured", ("stage",), figures)
    lines = []
    for one in result.resources.spending:
        planned = "unknown" if one.planned_s is None else f"{one.planned_s:,.1f} s"
        ratio = f"{one.spent_s / one.planned_s:.2f}" if one.planned_s else "–"
        hours = (one.spent_s + one.loading_s) / 3600
        cost = price(one.device, hours, one.tokens_read, one.tokens_written, result.prices)
        paid = "–" if cost is None else f"{cost:,.4f}"
        table.add_row(one.name, planned, f"{one.spent_s:,.1f} {one.device}-s", ratio, f"{one.loading_s:,.1f} s", paid)
        if one.tokens_read:
            lines.append(f"{one.name}: {one.tokens_read:,.0f} tokens read, {one.tokens_written:,.0f} written")
    return [table, *lines]
