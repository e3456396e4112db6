"""The same metric in every group of clips: gender, speaker, duration bucket."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from emoray.evaluation.config import EvaluateConfig
from emoray.evaluation.intervals import interval
from emoray.evaluation.metrics import Metric
from emoray.schema import UNKNOWN_SPEAKER

DURATION = "duration"


def with_duration_bucket(frame: pl.DataFrame, edges_s: Sequence[float]) -> pl.DataFrame:
    """Add the column `duration`: `< 2 s`, `2–4 s` … `≥ 8 s` by duration_s; null if the duration is unknown."""
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
    frames: Sequence[pl.DataFrame], column: str, metrics: Sequence[Metric], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Metrics of every group of one column; clips where it is null form no group.

    `frames` are predictions at one semantic level, one frame per training seed on the same clips.

    Returns:
        One entry per group, in order of its value (duration: shortest first): value, n_clips, n_speakers, and per
        metric an interval, or only the estimate (mean over the seeds) if the group is smaller than `min_group_clips`.
    """
    if column not in frames[0].columns:
        return []
    found = frames[0][column].drop_nulls().unique().sort().to_list()
    values = [name for name in bucket_names(config.duration_edges_s) if name in found] if column == DURATION else found
    rows = []
    for value in values:
        parts = [frame.filter(pl.col(column) == value) for frame in frames]
        entry: dict[str, Any] = {
            "value": str(value), "n_clips": parts[0].height, "n_speakers": n_speakers(parts[0]),
        }  # fmt: skip
        for metric in metrics:
            if parts[0].height >= config.min_group_clips:
                entry[metric.name] = interval(metric, parts, level=config.interval_level).to_dict()
            else:
                estimate = float(np.mean([metric(part) for part in parts]))
                entry[metric.name] = {"estimate": None if np.isnan(estimate) else estimate}
        rows.append(entry)
    return rows


def n_speakers(frame: pl.DataFrame) -> int | None:
    """Number of known speakers; None if the frame has no such column."""
    if "speaker_id" not in frame.columns:
        return None
    return frame.filter(pl.col("speaker_id").is_not_null() & (pl.col("speaker_id") != UNKNOWN_SPEAKER))[
        "speaker_id"
    ].n_unique()
