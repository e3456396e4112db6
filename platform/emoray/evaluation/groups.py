"""The same metric in every group of clips: gender, speaker, duration bucket."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import polars as pl

from emoray.evaluation.bootstrap import interval
from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.metrics import Metric
from emoray.schema import UNKNOWN_SPEAKER

DURATION = "duration"


def with_duration_bucket(frame: pl.DataFrame, edges_s: Sequence[float]) -> pl.DataFrame:
    """Add the column `duration`: `< 2 s`, `2–4 s` … `≥ 8 s` by duration_s; null where the duration is unknown."""
    if "duration_s" not in frame.columns:
        return frame
    edges = sorted(edges_s)
    labels = bucket_names(edges)
    bucket = pl.col("duration_s").cut(edges, labels=labels, left_closed=True).cast(pl.String)
    return frame.with_columns(bucket.alias(DURATION))


def bucket_names(edges_s: Sequence[float]) -> list[str]:
    """Names of the duration buckets, shortest first."""
    edges = [f"{edge:g}" for edge in sorted(edges_s)]
    between = [f"{low}–{high} s" for low, high in itertools.pairwise(edges)]
    return [f"< {edges[0]} s", *between, f"≥ {edges[-1]} s"]


def by_group(
    frame: pl.DataFrame, column: str, metrics: Sequence[Metric], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Metrics of every group of one column.

    Args:
        frame: Predictions at one semantic level.
        column: Column to group by; clips where it is null form no group.
        metrics: What to measure.
        config: Intervals, and how many clips a group needs for one.

    Returns:
        One entry per group, in order of its name (duration: shortest first): value, n_clips, n_speakers, and per metric
        an interval, or the bare estimate where the group is smaller than `min_group_clips`.
    """
    if column not in frame.columns:
        return []
    rows = []
    for (value,), part in frame.filter(pl.col(column).is_not_null()).group_by(column):
        entry: dict[str, Any] = {"value": str(value), "n_clips": part.height, "n_speakers": n_speakers(part)}
        for metric in metrics:
            if part.height >= config.min_group_clips:
                found = interval(
                    metric, part, level=config.interval_level, resamples=config.resamples, seed=config.seed
                ).to_dict()
            else:
                estimate = metric(part)
                found = {"estimate": None if estimate != estimate else estimate}
            entry[metric.name] = found
        rows.append(entry)
    order = bucket_names(config.duration_edges_s) if column == DURATION else sorted(row["value"] for row in rows)
    return sorted(rows, key=lambda row: order.index(row["value"]))


def n_speakers(frame: pl.DataFrame) -> int | None:
    """How many known speakers there are; None where the frame does not say."""
    if "speaker_id" not in frame.columns:
        return None
    return frame.filter(pl.col("speaker_id").is_not_null() & (pl.col("speaker_id") != UNKNOWN_SPEAKER))[
        "speaker_id"
    ].n_unique()
