"""Bootstrap intervals that resample whole speakers, and paired differences on the same clips.

Clips of one speaker resemble each other, so resampling clips gives intervals that are too narrow; instead speakers are
drawn with all their clips (cluster bootstrap, Davison & Hinkley 1997, section 3.8), percentile intervals. Statistics
are summed per speaker once; a resample is then a row of counts, and all resamples are one matrix product.

Shapes: N clips, U units (speakers), S statistics, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from emoray.errors import InputError
from emoray.evaluation.metrics import Metric
from emoray.schema import UNKNOWN_SPEAKER

#: Upper bound of the counts in memory at once (R × U), so that 30,000 single clips do not need gigabytes.
_CHUNK = 4_000_000

UNITS = ("speaker", "dialogue", "clip")


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    Attributes:
        estimate: Value on the clips as they are (mean over the seeds, if several frames were given).
        low, high: Ends of the interval.
        n_units: Units that were resampled.
        unit: What was resampled: speaker, dialogue, clip, or a mixture such as `speaker+clip`.
        seed_sd: Standard deviation of the estimate over seeds, None for one frame.
    """

    estimate: float
    low: float
    high: float
    level: float
    n_clips: int
    n_units: int
    unit: str
    seed_sd: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: NaN (an undefined metric) becomes null."""
        return {
            key: None if isinstance(value, float) and np.isnan(value) else value for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Clusters:
    """Which unit each clip belongs to.

    Attributes:
        codes: int64 (N,) number of the clip's unit.
        unit: Speaker, dialogue, clip, or a mixture such as `speaker+clip`.
        warning: What a reader of the interval must know, or None.
    """

    codes: np.ndarray
    n_units: int
    unit: str
    warning: str | None


def clusters(frame: pl.DataFrame, unit: str = "speaker") -> Clusters:
    """Group a frame's clips into units of resampling; `unit` is the coarsest one to use: speaker, dialogue or clip.

    Each clip belongs to its speaker; if that is unknown, to its dialogue; if that is unknown too, it is its own unit.
    """
    if unit not in UNITS:
        raise InputError(f"unknown unit {unit!r}", remedy=f"One of {', '.join(UNITS)}")
    if frame.is_empty():
        raise InputError("no clip to resample", kind="empty_table")
    allowed = UNITS[UNITS.index(unit) :]
    names = frame.select(
        pl.coalesce(
            _prefixed(frame, "speaker_id", "speaker") if "speaker" in allowed else pl.lit(None, pl.String),
            _prefixed(frame, "dialogue_id", "dialogue") if "dialogue" in allowed else pl.lit(None, pl.String),
            pl.concat_str(pl.lit("clip:"), pl.int_range(pl.len())),
        ).alias("unit")
    )["unit"]
    kinds = names.str.extract(r"^(\w+):").value_counts()
    counts = dict(zip(kinds["unit"].to_list(), kinds["count"].to_list(), strict=True))
    used = [kind for kind in UNITS if kind in counts]
    _, codes = np.unique(names.to_numpy(), return_inverse=True)
    n_units = int(codes.max()) + 1
    if n_units < 2 and frame.height > 1:
        return Clusters(
            np.arange(frame.height), frame.height, "clip", f"only one {used[0]}: resampled over clips, too narrow"
        )
    warning = None
    if unit != "clip" and "clip" in counts:
        warning = (
            f"{counts['clip']} of {frame.height} clips have no known speaker or dialogue and are units themselves: the"
            " intervals may be too narrow"
        )
    return Clusters(codes, n_units, "+".join(used), warning)


def _prefixed(frame: pl.DataFrame, column: str, kind: str) -> pl.Expr:
    if column not in frame.columns:
        return pl.lit(None, pl.String)
    name = pl.col(column).cast(pl.String)
    known = name.is_not_null() & (name != UNKNOWN_SPEAKER) & (name != "")
    return pl.when(known).then(pl.concat_str(pl.lit(f"{kind}:"), name))


def interval(
    metric: Metric,
    frame: pl.DataFrame | Sequence[pl.DataFrame],
    unit: str = "speaker",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a metric.

    Args:
        frame: Predictions, or one frame per training seed on the same clips: the metric is then averaged over seeds
            within every resample.
        unit: What to resample: speaker (then dialogue, then clip, where unknown), dialogue or clip.
    """
    frames = _aligned([frame] if isinstance(frame, pl.DataFrame) else list(frame))
    groups = clusters(frames[0], unit)
    sums_TUS = np.stack([_per_unit(metric.per_clip(one), groups) for one in frames])
    plain = np.array([metric.value(sums_US.sum(axis=0)) for sums_US in sums_TUS])
    drawn = np.concatenate(
        [
            np.mean([metric.value(counts_RU @ sums_US) for sums_US in sums_TUS], axis=0)
            for counts_RU in _draws(groups.n_units, resamples, seed)
        ]
    )
    return _interval(plain, drawn, level, frames[0].height, groups)


def paired_difference(
    metric: Metric,
    challenger: pl.DataFrame | Sequence[pl.DataFrame],
    champion: pl.DataFrame | Sequence[pl.DataFrame],
    unit: str = "speaker",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of metric(challenger) − metric(champion) on the same clips: both get the same resampled speakers.

    Arguments as for `interval`, either side one frame or one per seed (`seed_sd` is then over seeds, paired in order,
    if both sides have as many).

    Raises:
        InputError: The clips or their labels are not the same on both sides.
    """
    new = [challenger] if isinstance(challenger, pl.DataFrame) else list(challenger)
    old = [champion] if isinstance(champion, pl.DataFrame) else list(champion)
    frames = _aligned([*new, *old])
    groups = clusters(frames[0], unit)
    sums_TUS = np.stack([_per_unit(metric.per_clip(one), groups) for one in frames])
    values = np.array([metric.value(sums_US.sum(axis=0)) for sums_US in sums_TUS])
    if len(new) == len(old):
        plain = values[: len(new)] - values[len(new) :]
    else:
        plain = np.array([values[: len(new)].mean() - values[len(new) :].mean()])
    drawn = []
    for counts_RU in _draws(groups.n_units, resamples, seed):
        values_TR = np.array([metric.value(counts_RU @ sums_US) for sums_US in sums_TUS])
        drawn.append(values_TR[: len(new)].mean(axis=0) - values_TR[len(new) :].mean(axis=0))
    return _interval(plain, np.concatenate(drawn), level, frames[0].height, groups)


def _interval(plain: np.ndarray, drawn: np.ndarray, level: float, n_clips: int, groups: Clusters) -> Interval:
    tail = (1 - level) / 2
    defined = drawn[np.isfinite(drawn)]
    low, high = np.quantile(defined, [tail, 1 - tail]) if defined.size else (np.nan, np.nan)
    seed_sd = float(plain.std(ddof=1)) if plain.size > 1 else None
    return Interval(float(plain.mean()), float(low), float(high), level, n_clips, groups.n_units, groups.unit, seed_sd)


def _per_unit(statistics_NS: np.ndarray, groups: Clusters) -> np.ndarray:
    sums_US = np.zeros((groups.n_units, statistics_NS.shape[1]))
    np.add.at(sums_US, groups.codes, statistics_NS)
    return sums_US


def _draws(n_units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is drawn, float64 (R, U) in chunks; a function of (n_units, resamples, seed) alone."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n_units)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        picks = rng.integers(0, n_units, (size, n_units)) + np.arange(size)[:, None] * n_units
        yield np.bincount(picks.ravel(), minlength=size * n_units).reshape(size, n_units).astype(np.float64)


def _aligned(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Sort frames by clip, and refuse frames with different clips or labels."""
    if len(frames) < 2:
        return frames
    first = frames[0].sort("utterance_id")
    ordered = [first]
    truths = [name for name in first.columns if name.endswith("_true")]
    for other in frames[1:]:
        other = other.sort("utterance_id")
        if not first["utterance_id"].equals(other["utterance_id"]):
            odd = set(first["utterance_id"]) ^ set(other["utterance_id"])
            raise InputError(
                f"the predictions are not on the same clips ({len(odd)} ids are on one side only, {first.height}"
                f" against {other.height} rows)",
                remedy="Score both models on the same split and one semantic level",
                kind="different_clips",
            )
        for name in truths:
            if not first[name].equals(other[name]):
                what = f"the labels in column {name} differ between the predictions"
                raise InputError(what, remedy="Use one label table", kind="different_labels")
        ordered.append(other)
    return ordered
