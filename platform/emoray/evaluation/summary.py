"""All figures of one evaluation as plain values: the content of `metrics.json` and of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from emoray.errors import InputError
from emoray.evaluation import conformal
from emoray.evaluation.baselines import against_baselines
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.groups import DURATION, by_group, n_speakers, with_duration_bucket
from emoray.evaluation.intervals import clusters, interval
from emoray.evaluation.metrics import (
    Metric,
    calibration,
    categorical,
    confusion,
    dimensional,
    labelled_dimensions,
    mean_ccc,
    recall,
)
from emoray.schema import DIMENSIONS, GRANULARITIES, UNKNOWN_SPEAKER
from emoray.stages.conditions import Condition

#: Semantic levels and their names for readers, from the least input to the most.
LEVELS = {"audio": "audio alone", "transcript": "audio + transcript", "full": "audio + transcript + delivery"}

#: Metric → what tables call it.
TITLES = {
    **{f"ccc_{name}": f"CCC {name}" for name in DIMENSIONS},
    "ccc_mean": "CCC mean",
    "ua": "UA",
    "wa": "WA",
    "macro_f1": "macro-F1",
}

GROUP_COLUMNS = ("gender", DURATION, "speaker_id")

#: Columns of predictions by several trainings: the seed of each, and the fold that its clips were tested in.
SEED, FOLD = "seed", "fold"

REQUIRED = ("utterance_id", "split", "level")


def check_predictions(frame: pl.DataFrame) -> pl.DataFrame:
    """Check a frame against the predictions contract and clip predicted dimensions to the scale, as the scorer does.

    Raises:
        InputError: A column is missing, a clip occurs twice at one level (and seed, if the frame has several), or a
            prediction is not finite.
    """
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        what = f"the predictions do not have the columns {', '.join(missing)}"
        raise InputError(what, remedy="See emoray.evaluation.summary", kind="missing_column")
    if frame.is_empty():
        raise InputError("there are no predictions to evaluate", remedy="Check the split's name", kind="empty_table")
    key = ["utterance_id", "level", *([SEED] if SEED in frame.columns else [])]
    twice = frame.group_by(key).len().filter(pl.col("len") > 1)
    if not twice.is_empty():
        what = f"{twice['utterance_id'][0]!r} was predicted {twice['len'][0]} times at level {twice['level'][0]!r}"
        raise InputError(what, kind="duplicate_id")
    present = [f"{d}_pred" for d in DIMENSIONS if f"{d}_pred" in frame.columns]
    for name in present:
        broken = frame.filter(~pl.col(name).is_finite())
        if not broken.is_empty():
            where = f"utterance {broken['utterance_id'][0]}"
            raise InputError(f"{name} is {broken[name][0]}", where=where, kind="non_finite_prediction")
    return frame.with_columns(pl.col(name).cast(pl.Float64).clip(0.0, 1.0) for name in present)


def level_title(level: str) -> str:
    """A level's name for readers, with its condition if it has one (`full/unknown/reference`)."""
    vectors, _, condition = level.partition("/")
    title, under = LEVELS.get(vectors, vectors), Condition.named(condition) if condition else None
    if under is None:
        return title
    return f"{title}; {under.speaker_title if vectors == 'audio' else under.title}"


def semantic_levels(frame: pl.DataFrame) -> list[str]:
    """Semantic levels of a predictions frame, from the least input to the most; those under conditions in its order."""
    order = list(LEVELS)
    found = frame["level"].unique(maintain_order=True).to_list()
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def by_seed(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """The predictions of each training seed, in order of the seed; the whole frame if it has no seeds."""
    return frame.sort(SEED).partition_by(SEED, maintain_order=True) if SEED in frame.columns else [frame]


def summarise(
    predictions: pl.DataFrame,
    config: EvaluateConfig,
    *,
    half_widths: conformal.HalfWidths | None = None,
    classes: Sequence[str] = (),
    baselines: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Metrics with intervals per semantic level, groups, and the coverage of the conformal intervals, as JSON values.

    With a column `seed` (predictions of a protocol), metrics are means over the seeds, with their standard deviation;
    if the column `fold` then has several folds, there are figures for each.

    Args:
        predictions: Columns utterance_id, split, level, and if known speaker_id, gender, dialogue_id, duration_s,
            {dimension}_true and _pred in [0, 1], scale_min, scale_max, emotion_true, emotion_pred, gates, seed, fold.
        half_widths: The version's conformal half widths; None leaves coverage out.
        classes: Classes of the categorical head, in the model's order; empty = no categorical metrics. Clips of other
            classes count in none of these.
        baselines: Predictions of baselines (`emoray.evaluation.baselines`), to compare the richest level with.

    Raises:
        InputError: The frame breaks the contract, its seeds were tested on different clips, or it has no label at all.
    """
    frame = with_duration_bucket(check_predictions(predictions), config.duration_edges_s)
    dimensions = labelled_dimensions(frame)
    frame, known_classes = _known_classes(frame, classes)
    if not dimensions and not known_classes:
        raise InputError("no clip has a label", remedy="Evaluate on a labelled split", kind="no_labels")
    seeds = by_seed(frame)
    one_level = seeds[0].filter(pl.col("level") == semantic_levels(frame)[0])
    units = clusters(one_level)
    covered = conformal.coverage(frame, half_widths) if half_widths else {}
    best = seeds[0].filter(pl.col("level") == semantic_levels(frame)[-1])
    return {
        "splits": sorted(str(name) for name in one_level["split"].unique() if name is not None),
        "n_clips": one_level.height,
        "n_speakers": n_speakers(one_level),
        "n_unknown_speaker": _unknown_speakers(one_level),
        "unit": units.unit,
        "n_units": units.n_units,
        "warning": units.warning,
        "seeds": [int(one[SEED][0]) for one in seeds if SEED in frame.columns],
        "folds": _folds(one_level),
        "interval_level": config.interval_level,
        "conformal_level": config.conformal_level if half_widths else None,
        "dimensions": dimensions,
        "classes": known_classes,
        "scale": _scale(one_level),
        "baselines": {}
        if baselines is None
        else against_baselines(best, baselines, headline_metrics(dimensions, known_classes), config.interval_level),
        "levels": {
            level: _one_level(frame.filter(pl.col("level") == level), dimensions, known_classes, config)
            | {"half_widths": (half_widths or {}).get(level), "coverage": covered.get(level)}
            for level in semantic_levels(frame)
        },
    }


def point_estimates(predictions: pl.DataFrame, classes: Sequence[str] = ()) -> dict[str, float]:
    """The metrics of a report without intervals, as `full/ccc_valence` → value; undefined ones are left out.

    Arguments as for `summarise`, of one seed.

    Raises:
        InputError: The frame breaks the contract.
    """
    frame, known_classes = _known_classes(check_predictions(predictions), classes)
    metrics = metric_list(labelled_dimensions(frame), known_classes)
    return {
        f"{level}/{name}": value
        for level in semantic_levels(frame)
        for name, value in _values(frame.filter(pl.col("level") == level), metrics).items()
        if value is not None
    }


def _known_classes(frame: pl.DataFrame, classes: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """The frame without labels of other classes than the model's, and the classes if a label is left."""
    if not classes or "emotion_true" not in frame.columns:
        return frame, []
    known = pl.col("emotion_true").is_in(list(classes))
    frame = frame.with_columns(emotion_true=pl.when(known).then(pl.col("emotion_true")))
    return frame, list(classes) if frame["emotion_true"].is_not_null().any() else []


def headline_metrics(dimensions: Sequence[str], classes: Sequence[str]) -> list[Metric]:
    """The metrics that tables show: CCC per dimension and their mean, UA and WA."""
    found = [dimensional("ccc", d) for d in dimensions] + ([mean_ccc(dimensions)] if dimensions else [])
    return found + [categorical(kind, classes) for kind in ("ua", "wa") if classes]


def _has_probabilities(frame: pl.DataFrame) -> bool:
    return "emotion_probabilities" in frame.columns and not frame["emotion_probabilities"].is_null().any()


def metric_list(dimensions: Sequence[str], classes: Sequence[str], *, probabilities: bool = False) -> list[Metric]:
    """The metrics of a report, in its order; with the classes' probabilities also how well these are calibrated."""
    other = [dimensional(kind, d) for kind in ("pearson", "mae", "bias") for d in dimensions]
    return [
        *headline_metrics(dimensions, ()),
        *other,
        *headline_metrics((), classes),
        *([categorical("macro_f1", classes)] if classes else []),
        *(calibration(kind, classes) for kind in ("ece", "brier") if classes and probabilities),
    ]


def _one_level(
    frame: pl.DataFrame, dimensions: list[str], classes: list[str], config: EvaluateConfig
) -> dict[str, Any]:
    frames, metrics = by_seed(frame), metric_list(dimensions, classes, probabilities=_has_probabilities(frame))
    per_fold = [one for one in metrics if one.name in TITLES]
    per_group = [one for one in per_fold if one.name not in ("wa", "macro_f1")]
    return {
        "n_clips": frames[0].height,
        "metrics": {one.name: interval(one, frames, level=config.interval_level).to_dict() for one in metrics},
        "groups": {
            column: by_group(frames, column, per_group, config) for column in GROUP_COLUMNS if column in frame.columns
        },
        "folds": by_group(frames, FOLD, per_fold, config) if _folds(frames[0]) else [],
        "seeds": {str(one[SEED][0]): _values(one, metrics) for one in frames if SEED in frame.columns},
        "confusion": _confusion(frame, classes) if classes else None,
        "recalls": {
            name: interval(recall(name, classes), frames, level=config.interval_level).to_dict()
            for name in classes
            if frames[0]["emotion_true"].eq(name).any()
        },
        "gates": _mean_gates(frame),
    }


def _folds(frame: pl.DataFrame) -> list[int]:
    """The folds that clips were tested in, if there are several; a single model's clips have none."""
    if not {SEED, FOLD} <= set(frame.columns):
        return []
    found = frame[FOLD].drop_nulls().unique().sort().to_list()
    return found if len(found) > 1 else []


def _values(frame: pl.DataFrame, metrics: Sequence[Metric]) -> dict[str, float | None]:
    """Metrics of one seed, without intervals; null if undefined."""
    values = {metric.name: metric(frame) for metric in metrics}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


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
    """The corpus's scale if all clips have the same, else None (errors are then on a mixture of scales)."""
    if "scale_min" not in frame.columns:
        return None
    pairs = frame.select("scale_min", "scale_max").unique().drop_nulls()
    return [float(pairs["scale_min"][0]), float(pairs["scale_max"][0])] if pairs.height == 1 else None


def _unknown_speakers(frame: pl.DataFrame) -> int:
    if "speaker_id" not in frame.columns:
        return frame.height
    return frame.filter(pl.col("speaker_id").is_null() | (pl.col("speaker_id") == UNKNOWN_SPEAKER)).height
