"""annotate: utterances → stage tables, in two phases with the fitted norms between them (docs/decisions/0001).

Run it again after a kill, beside another run, or with another prompt: what the stage tables hold is not done again, and
Ray starts only if there is work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.errors import ErrorBudgetExceeded, InputError, LakeError, StageError
from emoray.lake import Lake
from emoray.stages import pipeline
from emoray.stages.base import Stage
from emoray.stages.norms import Norms
from emoray_jobs import worklist
from emoray_jobs.passes import Passes, Workforce
from emoray_jobs.progress import track

if TYPE_CHECKING:
    from emoray_jobs.config import Config


@dataclass(frozen=True)
class Counts:
    """What became of the utterances: every one is in exactly one of the last four.

    Attributes:
        utterances: Rows of the corpus.
        complete: Every stage has a value.
        partial: Decoded, but some later stage has an error in place of its value.
        quarantined: Could not be decoded.
        filtered: Left out by the caller's choice of splits.
    """

    utterances: int
    complete: int
    partial: int
    quarantined: int
    filtered: int


@dataclass(frozen=True)
class StageSummary:
    """What a run did for one stage.

    Attributes:
        name: The stage.
        fingerprint: Under which its outcomes are kept.
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
        corpus: Name of the corpus.
        counts: What became of the utterances.
        stages: What was done, per stage, in order.
        fingerprints: Fingerprint of each stage.
        norms_hash: Which norms the text stages measured against.
        audio_s: Seconds of audio of the utterances that could be decoded.
        wall_s: How long the run took.
        workforce: Who took part, and with how much memory.
        flush_rows: Rows per stage that the sink gathers before it writes a file.
    """

    corpus: str
    counts: Counts
    stages: list[StageSummary]
    fingerprints: dict[str, str]
    norms_hash: str
    audio_s: float
    wall_s: float
    workforce: Workforce
    flush_rows: int


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


@dataclass(frozen=True)
class State:
    """Which annotations of a corpus are current.

    Attributes:
        fingerprints: Fingerprint of each stage.
        norms: The fitted norms.
        norms_hash: Their hash.
    """

    fingerprints: dict[str, str]
    norms: Norms
    norms_hash: str


def state(config: Config, lake: Lake) -> State:
    """The current annotations of the configured corpus, without Ray.

    Raises:
        LakeError: The corpus was not annotated with this configuration.
    """
    pointer = _norms_pointer(config)
    if not lake.exists(*pointer):
        raise LakeError(
            f"corpus {config.corpus.name!r} has no annotations for this configuration",
            where=lake.root,
            remedy="Make them: emoray annotate",
            kind="not_annotated",
        )
    norms = _read_norms(lake, pointer)
    return State(pipeline.fingerprints(config.annotate, norms.hash), norms, norms.hash)


def run(
    config: Config, *, retry_failed: bool = False, refit_norms: bool = False, splits: Sequence[str] = ()
) -> AnnotateResult:
    """Annotate the configured corpus as far as it is not done.

    Args:
        config: The jobs' configuration.
        retry_failed: Forget recorded errors first, so that those rows are tried again.
        refit_norms: Fit the norms anew from the prosody at hand, even where there are some.
        splits: Only these splits; the others count as filtered. Empty for all.

    Raises:
        LakeError: The corpus is not in the lake.
        InputError: The corpus has no such split.
        ErrorBudgetExceeded: More than `annotate.max_error_fraction` of the utterances failed; all outcomes are written
            all the same.
        ServiceError: Rows could not be finished although they were tried alone.
    """
    started = time.monotonic()
    lake = Lake(config.lake)
    utterances = lake.utterances(config.corpus.name)
    selected = _select(utterances, splits)
    with contextlib.ExitStack() as stack:
        job = Passes(config, lake, selected, stack)
        audio = pipeline.audio_stages(config.annotate, config.lake.storage_options)
        fingerprints = pipeline.fingerprints(config.annotate, None)
        if retry_failed:
            _forget_failures(lake, audio, fingerprints)
        job.finish(audio, fingerprints, "measuring and transcribing")
        try:
            norms = _fitted_norms(config, lake, selected, fingerprints, refit_norms)
        except StageError:
            # Nothing could be measured at all: say what is wrong with the clips before what that means for the norms.
            counts = _count(lake, utterances.num_rows, selected, audio, fingerprints)
            _hold_budget(
                counts,
                [_summary(lake, job, stage, fingerprints[stage.name]) for stage in audio],
                config.annotate.max_error_fraction,
            )
            raise
        text = pipeline.text_stages(config.annotate, norms)
        fingerprints = pipeline.fingerprints(config.annotate, norms.hash)
        if retry_failed:
            _forget_failures(lake, text, fingerprints)
        job.finish(text, fingerprints, "describing and embedding")
    result = AnnotateResult(
        corpus=config.corpus.name,
        counts=_count(lake, utterances.num_rows, selected, [*audio, *text], fingerprints),
        stages=[_summary(lake, job, stage, fingerprints[stage.name]) for stage in (*audio, *text)],
        fingerprints=fingerprints,
        norms_hash=norms.hash,
        audio_s=_audio_s(lake, job, fingerprints["decode"]),
        wall_s=time.monotonic() - started,
        workforce=job.workforce(),
        flush_rows=config.annotate.flush_rows,
    )
    _hold_budget(result.counts, result.stages, config.annotate.max_error_fraction)
    return result


def plan(config: Config, *, splits: Sequence[str] = ()) -> Plan:
    """What `run` would compute and reuse now. Needs no Ray and changes nothing.

    Raises:
        LakeError: The corpus is not in the lake.
        InputError: The corpus has no such split.
    """
    lake = Lake(config.lake)
    rows = worklist.durations(_select(lake.utterances(config.corpus.name), splits))
    pointer = _norms_pointer(config)
    norms_hash = _read_norms(lake, pointer).hash if lake.exists(*pointer) else None
    fingerprints = pipeline.fingerprints(config.annotate, norms_hash)
    stages = []
    for stage in (*pipeline.audio_stages(config.annotate), *pipeline.text_stages(config.annotate, None)):
        lacking = rows
        if stage.name in fingerprints:
            lacking = worklist.outstanding(lake, rows, [stage], fingerprints).rows
        reuse, audio_s = rows.height - lacking.height, float(lacking["seconds"].sum())
        stages.append(StagePlan(stage.name, stage.resources, lacking.height, reuse, audio_s))
    return Plan(config.corpus.name, stages, norms_hash)


def _select(utterances: pa.Table, splits: Sequence[str]) -> pa.Table:
    if not splits:
        return utterances
    known = sorted(name for name in pc.unique(utterances["split"]).to_pylist() if name is not None)
    for split in splits:
        if split not in known:
            raise InputError(f"the corpus has no split {split!r}", remedy=f"It has: {', '.join(known) or 'none'}")
    return utterances.filter(pc.is_in(utterances["split"], value_set=pa.array(splits)))


def _norms_pointer(config: Config) -> tuple[str, ...]:
    """Where it is kept which norms a corpus has; the same audio stages and options find the same norms again."""
    document = {
        "audio": pipeline.fingerprints(config.annotate, None),
        "norms": config.annotate.norms.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
    return "norms", "current", f"{config.corpus.name}-{digest}.json"


def _read_norms(lake: Lake, pointer: tuple[str, ...]) -> Norms:
    return Norms.from_json(lake.read_json("norms", f"{lake.read_json(*pointer)['norms']}.json"))


def _fitted_norms(
    config: Config, lake: Lake, utterances: pa.Table, fingerprints: Mapping[str, str], refit: bool
) -> Norms:
    pointer = _norms_pointer(config)
    if lake.exists(*pointer) and not refit:
        return _read_norms(lake, pointer)
    columns = ["utterance_id", "speaker_id", "split"]
    reads = {name: fingerprints[name] for name in ("prosody", "transcribe")}

    def rows() -> Iterator[dict[str, Any]]:
        done = 0
        with track("fitting norms", "utterances") as advance:
            for part in worklist.joined(lake, utterances.select(columns), reads):
                for batch in part.to_batches(max_chunksize=256):
                    yield from batch.to_pylist()
                    done += batch.num_rows
                    advance(done, utterances.num_rows)

    norms = Norms.fit(rows(), config.annotate.norms)
    lake.write_json(norms.to_json(), "norms", f"{norms.hash}.json")
    lake.write_json({"norms": norms.hash, "corpus": config.corpus.name, "utterances": utterances.num_rows}, *pointer)
    return norms


def _forget_failures(lake: Lake, stages: Sequence[Stage], fingerprints: Mapping[str, str]) -> None:
    for stage in stages:
        worklist.forget_failures(lake, stage.name, fingerprints[stage.name])


def _summary(lake: Lake, job: Passes, stage: Stage, fingerprint: str) -> StageSummary:
    """What was done for a stage, read from its table."""
    answers = job.durations.select("utterance_id").join(
        worklist.answers(lake, stage.name, fingerprint), on="utterance_id"
    )
    computed = job.lacked[stage.name].join(answers, on="utterance_id")
    failed = answers.filter(pl.col("failed").is_not_null()).group_by("failed").len().sort("failed")
    return StageSummary(
        name=stage.name,
        fingerprint=fingerprint,
        computed=computed.height,
        reused=answers.height - computed.height,
        failed=dict(failed.iter_rows()),
        busy_s=float(computed["elapsed_s"].sum()),
        audio_s=float(computed["seconds"].sum()),
    )


def _audio_s(lake: Lake, job: Passes, decode_fingerprint: str) -> float:
    good = worklist.answers(lake, "decode", decode_fingerprint).filter(pl.col("failed").is_null())
    return float(job.durations.join(good, on="utterance_id", how="semi")["seconds"].sum())


def _count(
    lake: Lake, total: int, selected: pa.Table, stages: Sequence[Stage], fingerprints: Mapping[str, str]
) -> Counts:
    """Sort every utterance into exactly one class, from the stage tables."""
    frame = pl.DataFrame({"utterance_id": pl.from_arrow(selected["utterance_id"])})
    for stage in stages:
        answers = worklist.answers(lake, stage.name, fingerprints[stage.name])
        mark = answers.select("utterance_id", pl.col("failed").is_not_null().alias(stage.name))
        frame = frame.join(mark, on="utterance_id", how="left")
    names = [stage.name for stage in stages]
    later = pl.any_horizontal(pl.col(name) for name in names[1:])
    quarantined = frame.filter(pl.col(names[0])).height
    partial = frame.filter(~pl.col(names[0]) & later).height
    complete = frame.filter(~pl.any_horizontal(pl.col(name).fill_null(True) for name in names)).height
    counts = Counts(total, complete, partial, quarantined, total - selected.num_rows)
    assert counts.utterances == counts.complete + counts.partial + counts.quarantined + counts.filtered, (
        f"rows were lost: {counts}"
    )
    return counts


def _hold_budget(counts: Counts, stages: Sequence[StageSummary], max_error_fraction: float) -> None:
    failed, tried = counts.partial + counts.quarantined, counts.utterances - counts.filtered
    if failed <= max_error_fraction * tried:
        return
    kinds = [
        f"{stage.name}: {kind} ×{number}"
        for stage in stages
        for kind, number in stage.failed.items()
        if kind != "missing_input"
    ]
    raise ErrorBudgetExceeded(
        f"{failed} of {tried} utterances failed, more than annotate.max_error_fraction={max_error_fraction:g} allows"
        f" ({', '.join(kinds)})",
        remedy="The stage tables hold each error. Mend the causes and run with --retry-failed, or raise the fraction",
    )


def render(result: AnnotateResult | Plan) -> RenderableType:
    """The summary or the plan, as it is printed."""
    return _render_plan(result) if isinstance(result, Plan) else _render_result(result)


def _render_plan(plan: Plan) -> RenderableType:
    table = _table(f"plan for {plan.corpus}", ("stage", "runs in"), ("to compute", "to reuse", "hours of audio"))
    for stage in plan.stages:
        cells = (f"{stage.compute:,}", f"{stage.reuse:,}", f"{stage.audio_s / 3600:.2f}")
        table.add_row(stage.name, stage.runs_in, *cells)
    return Group(table, f"norms {plan.norms_hash or 'to be fitted once prosody is measured'}")


def _render_result(result: AnnotateResult) -> RenderableType:
    numbers = ("computed", "reused", "failed", "busy s", "real-time factor")
    table = _table(f"annotate {result.corpus}", ("stage", "fingerprint"), numbers)
    for stage in result.stages:
        failed = ", ".join(f"{kind} {number}" for kind, number in stage.failed.items()) or "0"
        factor = "–" if stage.real_time_factor is None else f"{stage.real_time_factor:.4f}"
        cells = (f"{stage.computed:,}", f"{stage.reused:,}", failed, f"{stage.busy_s:.1f}", factor)
        table.add_row(stage.name, stage.fingerprint, *cells)
    counts, work = result.counts, result.workforce
    classes = f"{counts.complete:,} complete + {counts.partial:,} partial + {counts.quarantined:,} quarantined"
    return Group(
        table,
        f"{counts.utterances:,} utterances = {classes} + {counts.filtered:,} filtered",
        f"{result.audio_s / 3600:.2f} h of audio in {result.wall_s:.1f} s, norms {result.norms_hash}",
        f"peak memory {work.peak_memory_bytes / 2**20:,.0f} MiB over the driver and {work.processes} workers"
        + (f" on {work.nodes} nodes" if work.nodes > 1 else ""),
        f"A kill costs at most the rows in flight and {result.flush_rows:,} buffered per stage; the command goes on",
    )


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
