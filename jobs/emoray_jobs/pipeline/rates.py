"""What stages cost in hours and money, from a rate that says where it comes from: measured in this lake, or shipped.

A rate is never guessed. Without one the hours and the price are unknown (None), and what is unknown is in no sum.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import yaml

from emoray.lake.tables import Lake
from emoray.stages.base import Stage
from emoray_jobs.cluster.hardware import ClusterResources
from emoray_jobs.config import PlanConfig
from emoray_jobs.pipeline.costs import Cost
from emoray_jobs.pipeline.estimate import costs_on

#: Costs are compared for so many hours of speech.
HOURS_OF_SPEECH = 1000
#: What an hour of a stage is an hour of. An `endpoint` is paid by tokens, and its hours are hours of waiting.
Device = Literal["core", "GPU", "endpoint"]


@dataclass(frozen=True)
class Amount:
    """What some speech costs in a stage.

    Attributes:
        hours: Hours of its device; of several GPUs together, where a worker takes several.
        tokens_read: Tokens of the questions; 0 where none are counted.
        tokens_written: Tokens of the answers.
        price: In the configured currency; None without a configured price.
    """

    hours: float
    tokens_read: float
    tokens_written: float
    price: float | None


@dataclass(frozen=True)
class StageCost:
    """What a stage costs.

    Attributes:
        model: The model that it runs; empty without one.
        device: What its hours are hours of.
        thousand: For 1,000 hours of speech as this corpus has it; None where unknown.
        corpus: For what is to be computed; None where unknown.
        basis: Where the rate comes from.
    """

    stage: str
    model: str
    device: Device
    thousand: Amount | None
    corpus: Amount | None
    basis: str


@dataclass(frozen=True)
class ShippedRate:
    """A rate that comes with the package (rates.yaml says what the fields mean)."""

    stage: str
    model: str
    gpu: bool
    audio_s_per_s: float
    how: Literal["published", "measured"]
    source: str


def device_of(stage: Stage, gpus: int) -> Device:
    """What a stage's hours are hours of, if one worker has so many GPUs."""
    return "endpoint" if stage.waits else "GPU" if gpus else "core"


def gpus_of_stage(stage: Stage, machines: ClusterResources, on_cores: Collection[str] = ()) -> int:
    """GPUs of a stage's worker: none where the cluster has none, or its pool was left to the cores (`on_cores`)."""
    return stage.gpus if stage.resources == "actor" and machines.gpus and stage.name not in on_cores else 0


def stage_cost(
    lake: Lake,
    stage: Stage,
    machines: ClusterResources,
    prices: PlanConfig,
    *,
    corpus: tuple[int, float],
    compute: tuple[int, float],
    times: int = 1,
    on_cores: Collection[str] = (),
) -> StageCost:
    """What a stage costs on the machines that there are.

    Args:
        corpus: Rows and seconds of audio of the corpus: 1,000 hours have as many rows per hour.
        compute: Rows and seconds of audio that the stage has to go through.
        times: How often it goes through all of a corpus: `decode` may be in both passes.
        on_cores: Names of stages whose pools got no GPU.
    """
    gpus = gpus_of_stage(stage, machines, on_cores)
    device = device_of(stage, gpus)
    measured = costs_on(lake, [stage], machines.kinds(gpus)).get(stage.name)
    shipped = shipped_rate(stage, device)
    rows, audio_s = corpus
    thousand_s = HOURS_OF_SPEECH * 3600.0
    thousand = (times * rows * thousand_s / audio_s, times * thousand_s) if audio_s else None
    if measured is not None:
        basis = f"measured: {measured.rows:,.0f} rows"
    elif shipped is not None:
        basis = f"{shipped.how}: {shipped.source}"
    else:
        basis = "unknown"
    how = (measured, shipped, device, gpus, prices)
    return StageCost(
        stage=stage.name,
        model=stage.model,
        device=device,
        thousand=_amount(thousand, *how) if thousand else None,
        corpus=_amount(compute, *how),
        basis=basis,
    )


def shipped_rate(stage: Stage, device: Device) -> ShippedRate | None:
    """The shipped rate of a stage's model on a kind of device; None if there is none."""
    if device == "endpoint":
        return None
    return next(
        (one for one in _shipped() if (one.stage, one.model, one.gpu) == (stage.name, stage.model, device == "GPU")),
        None,
    )


def price(device: Device, hours: float, tokens_read: float, tokens_written: float, prices: PlanConfig) -> float | None:
    """What hours of a device cost, or tokens behind an endpoint; None without the prices, or without any tokens."""
    if device != "endpoint":
        per_hour = prices.price_per_gpu_hour if device == "GPU" else prices.price_per_cpu_hour
        return None if per_hour is None else hours * per_hour
    read, written = prices.price_per_million_tokens_read, prices.price_per_million_tokens_written
    if read is None or written is None or not tokens_read:
        return None
    return (tokens_read * read + tokens_written * written) / 1e6


def total_price(amounts: Mapping[str, Amount | None]) -> tuple[float, list[str]]:
    """The sum of the known prices of stages, and the names of those whose price is unknown."""
    known = {name: one.price for name, one in amounts.items() if one is not None and one.price is not None}
    return sum(known.values()), [name for name in amounts if name not in known]


def _amount(
    speech: tuple[float, float],
    measured: Cost | None,
    shipped: ShippedRate | None,
    device: Device,
    gpus: int,
    prices: PlanConfig,
) -> Amount | None:
    rows, audio_s = speech
    if measured is not None:
        work_s = measured.per_row_s * rows + measured.per_audio_s * audio_s
        tokens = (measured.tokens_read * rows, measured.tokens_written * rows)
    elif shipped is not None:
        work_s, tokens = audio_s / shipped.audio_s_per_s, (0.0, 0.0)
    else:
        return None
    hours = work_s / 3600 * max(1, gpus)
    return Amount(hours, *tokens, price(device, hours, *tokens, prices))


@functools.cache
def _shipped() -> tuple[ShippedRate, ...]:
    file = resources.files("emoray_jobs") / "pipeline" / "rates.yaml"
    given: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tuple(ShippedRate(**one) for one in given)
