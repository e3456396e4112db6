"""Intervals that hold for new speakers, and paired differences on the same clips.

Clips of one speaker resemble each other, so an interval over clips is too narrow. Here whole speakers are left out, one
at a time (jackknife over clusters, Efron and Tibshirani 1993, chapter 11), and the interval is Student's with one
degree of freedom less than there are speakers. Correlations are taken through Fisher's z and rates through the arcsine
of their root, where the estimate is closer to normal. A percentile bootstrap over speakers, the usual choice, covers
far too little below twenty speakers (`python -m benchmarks.quality.coverage`, docs/decisions/0030).

Statistics are summed per speaker once; leaving one out is then a subtraction. Shapes: N clips, U units (speakers), S
statistics, T frames (training seeds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtr, stdtrit  # Student's t and its quantile; scipy.stats takes much longer to import

from emoray.errors import InputError
from emoray.evaluation.metrics import Metric
from emoray.schema import UNKNOWN_SPEAKER

UNITS = ("speaker", "dialogue", "clip")
#: With fewer, an interval says little, however it is made.
FEW_UNITS = 20
#: Predictions, or a frame per training seed on the same clips.
Frames = pl.DataFrame | Sequence[pl.DataFrame]
#: Closest to ±1 that a correlation is taken through Fisher's z.
_LARGEST_CCC = 1 - 1e-9


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: Value on the clips as they are (mean over the seeds, if several frames were given).
        low, high: Ends of the interval.
        n_units: Units that were left out, one at a time.
        unit: What they are: speaker, dialogue, clip, or a mixture such as `speaker+clip`.
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
    """Group a frame's clips into units; `unit` is the coarsest one to use: speaker, dialogue or clip.

    Each clip belongs to its speaker; if that is unknown, to its dialogue; if that is unknown too, it is its own unit.
    """
    if unit not in UNITS:
        raise InputError(f"unknown unit {unit!r}", remedy=f"One of {', '.join(UNITS)}")
    if frame.is_empty():
        raise InputError("there is no clip", kind="empty_table")
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
        only = f"only one {used[0]}: the intervals are over its clips and too narrow"
        return Clusters(np.arange(frame.height), frame.height, "clip", only)
    warning = None
    if unit != "clip" and "clip" in counts:
        warning = (
            f"{counts['clip']} of {frame.height} clips have no known speaker or dialogue and are units themselves: the"
            " intervals may be too narrow"
        )
    elif n_units < FEW_UNITS:
        warning = f"only {n_units} {'+'.join(used)}s: the intervals are wide, and rest on few voices"
    return Clusters(codes, n_units, "+".join(used), warning)


def _prefixed(frame: pl.DataFrame, column: str, kind: str) -> pl.Expr:
    if column not in frame.columns:
        return pl.lit(None, pl.String)
    name = pl.col(column).cast(pl.String)
    known = name.is_not_null() & (name != UNKNOWN_SPEAKER) & (name != "")
    return pl.when(known).then(pl.concat_str(pl.lit(f"{kind}:"), name))


def interval(metric: Metric, frame: Frames, unit: str = "speaker", *, level: float = 0.95) -> Interval:
    """Interval of a metric.

    Args:
        frame: Predictions, or one frame per training seed on the same clips: the metric is then averaged over seeds.
        unit: What to leave out: speaker (then dialogue, then clip, where unknown), dialogue or clip.
    """
    frames = _aligned([frame] if isinstance(frame, pl.DataFrame) else list(frame))
    groups = clusters(frames[0], unit)
    whole_T, without_TU = _with_and_without(metric, frames, groups)
    there, back = _SCALES.get(metric.name.partition("_")[0], _PLAIN)
    low, high = _student(there(whole_T.mean()), there(without_TU.mean(axis=0)), level)
    return _as_interval(whole_T, (back(low), back(high)), level, frames[0].height, groups)


def paired_difference(metric: Metric, challenger: Frames, champion: Frames, *, level: float = 0.95) -> Interval:
    """Interval of metric(challenger) − metric(champion) on the same clips: both lose the same speaker at a time.

    Arguments as for `interval`, either side one frame or one per seed (`seed_sd` is then over seeds, paired in order,
    if both sides have as many).

    Raises:
        InputError: The clips or their labels are not the same on both sides.
    """
    frames, new_T, old_T, without_U, groups = _paired(metric, challenger, champion)
    plain_T = new_T - old_T if len(new_T) == len(old_T) else np.array([new_T.mean() - old_T.mean()])
    return _as_interval(plain_T, _student(plain_T.mean(), without_U, level), level, frames[0].height, groups)


def paired_p_value(metric: Metric, challenger: Frames, champion: Frames) -> float:
    """One-sided p-value of "the challenger is no worse", by the t of `paired_difference`; small where it is worse.

    NaN where the difference is undefined.
    """
    _, new_T, old_T, without_U, _ = _paired(metric, challenger, champion)
    whole = float(new_T.mean() - old_T.mean())
    error, freedom = _error(whole, without_U)
    if not freedom:
        return np.nan
    if error == 0:
        return 0.0 if whole < 0 else 1.0
    return float(stdtr(freedom, whole / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm (1979): each below α means a family-wise error of at most α."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _paired(
    metric: Metric, challenger: Frames, champion: Frames
) -> tuple[list[pl.DataFrame], np.ndarray, np.ndarray, np.ndarray, Clusters]:
    """Both sides' frames and values, and the difference without each unit."""
    new = [challenger] if isinstance(challenger, pl.DataFrame) else list(challenger)
    old = [champion] if isinstance(champion, pl.DataFrame) else list(champion)
    frames = _aligned([*new, *old])
    groups = clusters(frames[0])
    whole_T, without_TU = _with_and_without(metric, frames, groups)
    without_U = without_TU[: len(new)].mean(axis=0) - without_TU[len(new) :].mean(axis=0)
    return frames, whole_T[: len(new)], whole_T[len(new) :], without_U, groups


_Map = Callable[[Any], Any]


def _rate_to_angle(rate: Any) -> Any:
    return np.arcsin(np.sqrt(np.clip(rate, 0, 1)))


def _angle_to_rate(angle: Any) -> Any:
    return np.sin(np.clip(angle, 0, np.pi / 2)) ** 2


def _fisher_z(correlation: Any) -> Any:
    return np.arctanh(np.clip(correlation, -_LARGEST_CCC, _LARGEST_CCC))


_PLAIN: tuple[_Map, _Map] = (np.asarray, float)
_CORRELATION: tuple[_Map, _Map] = (_fisher_z, np.tanh)
_RATE: tuple[_Map, _Map] = (_rate_to_angle, _angle_to_rate)
#: Kind of metric, the beginning of its name → to the scale of its interval, and back.
_SCALES = {"ccc": _CORRELATION, "pearson": _CORRELATION, "ua": _RATE, "wa": _RATE, "macro": _RATE}


def _with_and_without(
    metric: Metric, frames: Sequence[pl.DataFrame], groups: Clusters
) -> tuple[np.ndarray, np.ndarray]:
    """The metric on all units (T,), and without each (T, U)."""
    sums_TUS = np.stack([_per_unit(metric.per_clip(one), groups) for one in frames])
    all_TS = sums_TUS.sum(axis=1)
    return metric.value(all_TS), metric.value(all_TS[:, None] - sums_TUS)


def _error(whole: float, without_U: np.ndarray) -> tuple[float, int]:
    """The jackknife's standard error and degrees of freedom; NaN where fewer than two units have a value."""
    defined = without_U[np.isfinite(without_U)]
    count = defined.size
    if count < 2 or not np.isfinite(whole):
        return np.nan, 0
    return float(np.sqrt((count - 1) / count * np.sum((defined - defined.mean()) ** 2))), count - 1


def _student(whole: float, without_U: np.ndarray, level: float) -> tuple[float, float]:
    """Ends of the jackknife's interval; NaN where it has no error."""
    error, freedom = _error(whole, without_U)
    if not freedom:
        return np.nan, np.nan
    width = float(stdtrit(freedom, (1 + level) / 2) * error)
    return float(whole) - width, float(whole) + width


def _as_interval(
    plain_T: np.ndarray, ends: tuple[float, float], level: float, n_clips: int, groups: Clusters
) -> Interval:
    seed_sd = float(plain_T.std(ddof=1)) if plain_T.size > 1 else None
    low, high = map(float, ends)
    return Interval(float(plain_T.mean()), low, high, level, n_clips, groups.n_units, groups.unit, seed_sd)


def _per_unit(statistics_NS: np.ndarray, groups: Clusters) -> np.ndarray:
    sums_US = np.zeros((groups.n_units, statistics_NS.shape[1]))
    np.add.at(sums_US, groups.codes, statistics_NS)
    return sums_US


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
