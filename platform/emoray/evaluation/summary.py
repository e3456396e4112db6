"""All figures of one evaluation as a plain tree: what `metrics.json` holds and the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from emoray.errors import InputError
from emoray.evaluation import conformal
from emoray.evaluation.bootstrap import clusters, interval
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.groups import DURATION, by_group, n_speakers, with_duration_bucket
from emoray.evaluation.metrics import Metric, categorical, confusion, dimensional, labelled_dimensions, mean_ccc
from emoray.schema import DIMENSIONS, GRANULARITIES, UNKNOWN_SPEAKER

#: Semantic levels and what a reader should call them, poorest first.
LEVELS = {"audio": "audio alone", "transcript": "audio + transcript", "full": "audio + transcript + delivery"}

GROUP_COLUMNS = ("gender", DURATION, "speaker_id")

REQUIRED = ("utterance_id", "split", "level")


def check_predictions(frame: pl.DataFrame) -> pl.DataFrame:
    """Hold a frame against the predictions contract and clip the predicted dimensions to the scale, as the scorer does.

    Raises:
        InputError: A column is missing, a clip occurs twice at one level, or a prediction is not finite.
    """
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise InputError(
            f"the predictions lack the columns {', '.join(missing)}", remedy="See emoray.evaluation.summary"
        )
    if frame.is_empty():
        raise InputError("there are no predictions to evaluate", remedy="Check the split's name")
    twice = frame.group_by("utterance_id", "level").len().filter(pl.col("len") > 1)
    if not twice.is_empty():
        raise InputError(
            f"{twice['utterance_id'][0]!r} was predicted {twice['len'][0]} times at level {twice['level'][0]!r}"
        )
    present = [f"{d}_pred" for d in DIMENSIONS if f"{d}_pred" in frame.columns]
    for name in present:
        broken = frame.filter(~pl.col(name).is_finite())
        if not broken.is_empty():
            raise InputError(f"{name} is {broken[name][0]}", where=f"utterance {broken['utterance_id'][0]}")
    return frame.with_columns(pl.col(name).cast(pl.Float64).clip(0.0, 1.0) for name in present)


def levels_of(frame: pl.DataFrame) -> list[str]:
    """Semantic levels of a predictions frame, poorest first."""
    order = list(LEVELS)
    return sorted(
        frame["level"].unique().to_list(), key=lambda name: order.index(name) if name in order else len(order)
    )


def summarise(
    predictions: pl.DataFrame,
    config: EvaluateConfig,
    *,
    half_widths: conformal.HalfWidths | None = None,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Metrics with intervals per semantic level, groups, and the coverage of the conformal intervals.

    Args:
        predictions: Columns utterance_id, split, level, and what is known of speaker_id, gender, dialogue_id,
            duration_s, {dimension}_true and _pred in [0, 1], scale_min, scale_max, emotion_true, emotion_pred, gates
        config: Intervals and groups.
        half_widths: The version's conformal half widths; None leaves coverage out.
        classes: Classes of the categorical head, in the model's order; empty = no categorical metrics. Clips of other
            classes count in none of these.

    Returns:
        A JSON-ready tree.

    Raises:
        InputError: The frame breaks the contract or has no label at all.
    """
    frame = with_duration_bucket(check_predictions(predictions), config.duration_edges_s)
    dimensions = labelled_dimensions(frame)
    judged: list[str] = []
    if classes and "emotion_true" in frame.columns:
        known = pl.col("emotion_true").is_in(list(classes))
        frame = frame.with_columns(emotion_true=pl.when(known).then(pl.col("emotion_true")))
        judged = list(classes) if frame["emotion_true"].is_not_null().any() else []
    if not dimensions and not judged:
        raise InputError("no clip has a label to judge the predictions by", remedy="Evaluate on a labelled split")
    one_level = frame.filter(pl.col("level") == levels_of(frame)[0])
    units = clusters(one_level)
    covered = conformal.coverage(frame, half_widths) if half_widths else {}
    return {
        "splits": sorted(str(name) for name in one_level["split"].unique() if name is not None),
        "n_clips": one_level.height,
        "n_speakers": n_speakers(one_level),
        "n_unknown_speaker": _unknown_speakers(one_level),
        "unit": units.unit,
        "n_units": units.n_units,
        "warning": units.warning,
        "interval_level": config.interval_level,
        "resamples": config.resamples,
        "conformal_level": config.conformal_level if half_widths else None,
        "dimensions": dimensions,
        "classes": judged,
        "scale": _scale(one_level),
        "levels": {
            level: _one_level(frame.filter(pl.col("level") == level), dimensions, judged, config)
            | {"half_widths": (half_widths or {}).get(level), "coverage": covered.get(level)}
            for level in levels_of(frame)
        },
    }


def metric_list(dimensions: Sequence[str], classes: Sequence[str]) -> list[Metric]:
    """The metrics of a report, in its order."""
    found = [dimensional("ccc", d) for d in dimensions]
    if dimensions:
        found.append(mean_ccc(dimensions))
    found += [dimensional(kind, d) for kind in ("pearson", "mae", "bias") for d in dimensions]
    return found + [categorical(kind, classes) for kind in ("ua", "wa", "macro_f1") if classes]


def _one_level(
    frame: pl.DataFrame, dimensions: list[str], classes: list[str], config: EvaluateConfig
) -> dict[str, Any]:
    options: dict[str, Any] = {"level": config.interval_level, "resamples": config.resamples, "seed": config.seed}
    headline = ([mean_ccc(dimensions)] if dimensions else []) + ([categorical("ua", classes)] if classes else [])
    per_group = [*(dimensional("ccc", d) for d in dimensions), *headline]
    return {
        "n_clips": frame.height,
        "metrics": {one.name: interval(one, frame, **options).to_dict() for one in metric_list(dimensions, classes)},
        "groups": {
            column: by_group(frame, column, per_group, config) for column in GROUP_COLUMNS if column in frame.columns
        },
        "confusion": _confusion(frame, classes) if classes else None,
        "gates": _mean_gates(frame),
    }


def _confusion(frame: pl.DataFrame, classes: list[str]) -> list[list[int]]:
    counts: list[list[int]] = confusion(
        frame["emotion_pred"].to_list(), frame["emotion_true"].to_list(), classes
    ).tolist()
    return counts


def _mean_gates(frame: pl.DataFrame) -> dict[str, float] | None:
    """Mean share of each text vector in the fused semantics; None for models without gates."""
    if "gates" not in frame.columns or frame["gates"].is_null().all():
        return None
    means_K = np.array(frame["gates"].drop_nulls().to_list()).mean(axis=0)
    return dict(zip(GRANULARITIES, means_K.tolist(), strict=True))


def _scale(frame: pl.DataFrame) -> list[float] | None:
    """The corpus's scale if all clips share one, else None (errors are then on a mixture of scales)."""
    if "scale_min" not in frame.columns:
        return None
    pairs = frame.select("scale_min", "scale_max").unique().drop_nulls()
    return [float(pairs["scale_min"][0]), float(pairs["scale_max"][0])] if pairs.height == 1 else None


def _unknown_speakers(frame: pl.DataFrame) -> int:
    if "speaker_id" not in frame.columns:
        return frame.height
    return frame.filter(pl.col("speaker_id").is_null() | (pl.col("speaker_id") == UNKNOWN_SPEAKER)).height
