"""annotate --plan: what a run would compute and reuse, with which workers, how long it takes and what it costs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.lake.tables import Lake
from emoray.stages import filters, pipeline
from emoray.stages.base import Stage
from emoray.stages.conditions import Condition
from emoray.stages.config import AnnotateConfig
from emoray.stages.decode import Decode
from emoray_jobs.annotate.state import load_norms, norms_source, select_splits
from emoray_jobs.cluster import hardware
from emoray_jobs.cluster.hardware import ClusterResources
from emoray_jobs.cluster.session import cluster_address, session
from emoray_jobs.config import ClusterConfig, PlanConfig
from emoray_jobs.pipeline import pending
from emoray_jobs.pipeline.estimate import WorkEstimate, estimate_work
from emoray_jobs.pipeline.pending import PendingWork
from emoray_jobs.pipeline.pools import Pool
from emoray_jobs.pipeline.rates import Amount, StageCost, stage_cost, total_price
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import Config


@dataclass(frozen=True)
class StagePlan:
    """What a run would do for one stage.

    Attributes:
        compute: Utterances without an outcome.
        reuse: Utterances with one.
        audio_s: Seconds of audio to put through it.
        work_s: Seconds of work, of a core or of a worker with its GPU; None where the cost is unknown.
        measured_rows: How many measured rows that rests on.
        cost: What the stage costs, per 1,000 hours of speech and for what it has to compute.
    """

    name: str
    compute: int
    reuse: int
    audio_s: float
    work_s: float | None
    measured_rows: int
    cost: StageCost


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        filtered: Utterances that the filters exclude, by reason. Unmeasured ones count as to be computed.
        norms_hash: The fitted norms; None if they must be fitted first: every text stage is then to be computed.
        machines: What there is to do it with.
        pools: The workers of each phase with something to do.
        seconds: How long it takes; None where a cost is unknown.
        price: What all machines cost for that time; None without prices or time.
    """

    corpus: str
    filtered: dict[str, int]
    stages: list[StagePlan]
    norms_hash: str | None
    machines: ClusterResources
    pools: list[Pool]
    seconds: float | None
    price: float | None
    condition: str
    further: Sequence[Plan] = ()


def run(config: Config, *, splits: Sequence[str] = (), calibrate: bool = False) -> Plan:
    """What `annotate` would do now. It starts no local Ray and writes nothing.

    Args:
        calibrate: First measure the stages whose cost is unknown, on a few utterances. That starts Ray, and the lake
            remembers what was measured.

    Raises:
        LakeError: The corpus is not in the lake.
        InputError: The corpus has no such split.
        ConfigError: A stage needs more GPUs than there are.
    """
    lake = Lake(config.lake)
    utterances = select_splits(lake.utterances(config.corpus.name), splits)
    there = _machines(lake, config.cluster)
    plans = [
        _plan(
            lake,
            config.corpus.name,
            config.annotate,
            config.cluster,
            config.plan,
            utterances,
            condition,
            there,
            calibrate=calibrate,
        )
        for condition in pipeline.conditions(config.annotate)
    ]
    return dataclasses.replace(plans[0], further=plans[1:])


def _plan(
    lake: Lake,
    corpus: str,
    options: AnnotateConfig,
    cluster: ClusterConfig,
    prices: PlanConfig,
    utterances: pa.Table,
    condition: Condition,
    there: ClusterResources,
    *,
    calibrate: bool,
) -> Plan:
    annotate = pipeline.under(options, condition)
    norms = load_norms(lake, corpus, norms_source(options, condition))
    norms_hash = norms.hash if norms else None
    fingerprints = pipeline.fingerprints(annotate, norms_hash)
    rows = pending.utterance_lengths(utterances)
    outside = filters.excluded(lake, rows, annotate.filters, fingerprints)
    rows = rows.filter(~pending.is_member(rows, outside))
    audio, text = pipeline.audio_stages(annotate), pipeline.text_stages(annotate, None)
    passes = (audio, pipeline.with_decode(text, audio))
    phases = [_work(lake, rows, stages, fingerprints) for stages in passes]
    forecasts = [estimate_work(lake, work, there, annotate) for work in phases]
    if calibrate and any(None in one.work_s.values() for one in forecasts):
        from emoray_jobs.annotate.calibrate import measure_sample

        unknown = [name for one in forecasts for name, work_s in one.work_s.items() if work_s is None]
        rows_to_draw = prices.calibrate_rows
        measure_sample(lake, cluster, annotate, utterances, unknown, sample_rows=rows_to_draw)
        forecasts = [estimate_work(lake, work, there, annotate) for work in phases]
    seconds = None
    if all(one.seconds is not None for one in forecasts):
        seconds = sum(one.seconds or 0.0 for one in forecasts)
    return Plan(
        corpus=corpus,
        filtered=dict(sorted(Counter(outside["reason"]).items())),
        stages=[_of_stage(lake, stage, phases, forecasts, there, rows, prices) for stage in (*audio, *text)],
        norms_hash=norms_hash,
        machines=there,
        pools=[pool for one in forecasts for pool in one.pools],
        seconds=seconds,
        price=_price(prices, there, seconds),
        condition=condition.name,
    )


def _work(lake: Lake, rows: pl.DataFrame, stages: Sequence[Stage], fingerprints: Mapping[str, str]) -> PendingWork:
    if all(stage.name in fingerprints for stage in stages):
        return pending.outstanding(lake, rows, stages, fingerprints)
    return PendingWork(stages, rows.with_columns(pl.lit(True).alias(stage.name) for stage in stages))


def _machines(lake: Lake, cluster: ClusterConfig) -> ClusterResources:
    if cluster_address(cluster) is None:
        return hardware.local_resources(cluster)
    with session(cluster, lake.config):
        return hardware.cluster_resources()


def _of_stage(
    lake: Lake,
    stage: Stage,
    phases: Sequence[PendingWork],
    forecasts: Sequence[WorkEstimate],
    there: ClusterResources,
    rows: pl.DataFrame,
    prices: PlanConfig,
) -> StagePlan:
    # Decode may be in both passes, but it has an outcome to give in the first one only.
    work = next(work for work in phases if stage.name in work.rows.columns)
    missing = work.missing(stage.name)
    works = [one.work_s[stage.name] for one in forecasts if stage.name in one.work_s]
    known = [one for one in works if one is not None]
    pools = [pool for one in forecasts for pool in one.pools]
    # Whatever reads the waveform has its clips decoded, those too that were decoded before.
    active = [one for one in phases if stage.name in {other.name for other in one.active_stages()}]
    gone_through = [one.rows if stage.name == Decode.name else one.missing(stage.name) for one in active]
    return StagePlan(
        name=stage.name,
        compute=missing.height,
        reuse=rows.height - missing.height,
        audio_s=float(missing["seconds"].sum()),
        work_s=sum(known) if len(known) == len(works) else None,
        measured_rows=int(max(one.measured_rows.get(stage.name, 0) for one in forecasts)),
        cost=stage_cost(
            lake,
            stage,
            there,
            prices,
            corpus=(rows.height, float(rows["seconds"].sum())),
            compute=(sum(one.height for one in gone_through), sum(float(one["seconds"].sum()) for one in gone_through)),
            times=sum(stage.name in one.rows.columns for one in phases),
            on_cores={name for pool in pools if not pool.gpus for name in pool.stages},
        ),
    )


def _price(options: PlanConfig, there: ClusterResources, seconds: float | None) -> float | None:
    per_cpu_hour, per_gpu_hour = options.price_per_cpu_hour, options.price_per_gpu_hour
    missing = per_cpu_hour is None or (per_gpu_hour is None and there.gpus)
    if seconds is None or missing:
        return None
    return seconds / 3600 * (there.cpus * (per_cpu_hour or 0.0) + there.gpus * (per_gpu_hour or 0.0))


def render(plan: Plan) -> RenderableType:
    """The plan, as it is printed."""
    figures = ("to compute", "to reuse", "hours of audio", "work", "measured on")
    table = titled_table(f"plan for {plan.corpus}", ("stage",), figures)
    for stage in plan.stages:
        work = "unknown" if stage.work_s is None else _duration(stage.work_s) if stage.work_s else "–"
        basis = f"{stage.measured_rows:,} rows" if stage.work_s else "–"
        counts = (f"{stage.compute:,}", f"{stage.reuse:,}", f"{stage.audio_s / 3600:.2f}")
        table.add_row(stage.name, *counts, work, basis)
    parts: list[RenderableType] = [table, *_costs(plan)]
    if plan.pools:
        parts.append(_pools(plan.pools))
    there = plan.machines
    has = f"{there.cpus:g} cores, {there.gpus} GPUs, {there.memory_bytes / 2**30:.1f} GiB"
    norms = plan.norms_hash or "to be fitted once prosody is measured; until then, text stages count as to be computed"
    if plan.filtered:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in plan.filtered.items())
        parts.append(f"filtered: {reasons}; what is not measured yet counts as to be computed")
    return Group(
        *parts,
        f"machines: {len(there.nodes)}, with {has}",
        f"norms: {norms}",
        *_time(plan),
        *map(_further, plan.further),
    )


def _further(plan: Plan) -> str:
    """What is to do under a further condition, in a line."""
    stages = ", ".join(f"{stage.name} {stage.compute:,}" for stage in plan.stages if stage.compute)
    time = "time unknown" if plan.seconds is None else f"about {_duration(plan.seconds)} more"
    return f"{Condition.named(plan.condition).title}: to compute {f'{stages}; {time}' if stages else 'nothing'}"


def _costs(plan: Plan) -> list[RenderableType]:
    """Hours and price of each stage, on its own line: recognition may cost more than the language model."""
    title = "cost by stage: 1,000 hours of speech like this corpus; what is to compute"
    table = titled_table(title, ("stage", "model"), ("hours / 1,000 h", "price / 1,000 h", "hours", "price"))
    table.add_column("rate")
    for stage in plan.stages:
        cost = stage.cost
        table.add_row(
            cost.stage, cost.model or "–", *_amount(cost.thousand, cost), *_amount(cost.corpus, cost), cost.basis
        )
    lines: list[RenderableType] = [table]
    for what, amounts in (
        ("1,000 hours of speech", {stage.name: stage.cost.thousand for stage in plan.stages}),
        ("what is to compute", {stage.name: stage.cost.corpus for stage in plan.stages if stage.compute}),
    ):
        known, unknown = total_price(amounts)
        if len(amounts) > len(unknown):
            without = f", without {', '.join(unknown)}, whose price is unknown" if unknown else ""
            lines.append(f"price of {what}: {_money(known)}{without}")
    tokens = [
        f"{stage.name} {found.tokens_read / 1e6:,.1f} read, {found.tokens_written / 1e6:,.1f} written"
        for stage in plan.stages
        if (found := stage.cost.thousand) is not None and found.tokens_read
    ]
    return [*lines, *([f"million tokens per 1,000 hours: {'; '.join(tokens)}"] if tokens else [])]


def _amount(found: Amount | None, cost: StageCost) -> tuple[str, str]:
    """Hours and price, as they are printed."""
    if found is None:
        return "unknown", "unknown"
    hours = f"{found.hours:,.1f}" if found.hours >= 10 else f"{found.hours:.2g}"
    return f"{hours} {cost.device}-h", "–" if found.price is None else _money(found.price)


def _money(price: float) -> str:
    """A price, as it is printed: small ones with two digits that count."""
    return f"{price:,.2f}" if price >= 1 or not price else f"{price:.2g}"


def _pools(pools: Sequence[Pool]) -> Table:
    table = titled_table("pools", ("stages", "workers"), ("cores asked for", "GPUs", "memory MiB"))
    for pool in pools:
        number = f"{pool.workers}" if pool.fixed or pool.workers == 1 else f"up to {pool.workers}"
        kind = ("actor" if pool.uses_actors else "task") + "s" * (pool.workers != 1)
        asks = (f"{pool.cpus:g}", f"{pool.gpus:g}", f"{pool.memory_bytes / 2**20:.0f}" if pool.memory_bytes else "–")
        table.add_row(pool.name, f"{number} {kind}", *asks)
    return table


def _time(plan: Plan) -> list[str]:
    if plan.seconds is None:
        return ["time: unknown, since the cost of a stage is. --calibrate measures it; so does every run"]
    how = "measured costs over the pools above; without the start of Ray, and the moving of rows"
    lines = [f"time: about {_duration(plan.seconds)} ({how})"]
    if plan.price is not None:
        lines.append(f"price: about {plan.price:,.2f}, for all machines during that time")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
