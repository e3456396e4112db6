"""A model against its baselines on the same clips: their metrics, and how far the model is ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from emoray.evaluation.intervals import interval, paired_difference
from emoray.evaluation.metrics import Metric
from emoray.schema import DIMENSIONS

#: Columns of the baselines' predictions: which one, and how many training clips it was fitted to.
BASELINE, FITTED_TO = "baseline", "fitted_to"


def against_baselines(
    frame: pl.DataFrame, baselines: pl.DataFrame, metrics: Sequence[Metric], level: float
) -> dict[str, Any]:
    """Each baseline's metrics, and the paired difference of a model's less the baseline's, as JSON values.

    Args:
        frame: The model's predictions with all that it reads, one row per clip.
        baselines: Predictions of each, with the columns `baseline` and `fitted_to`.
        level: Of the intervals.

    Returns:
        Baseline → {n_clips: clips that both predicted, fitted_to, metrics, differences}.
    """
    found = {}
    for (name,), part in sorted(baselines.partition_by(BASELINE, as_dict=True).items()):
        both = frame.join(part, on="utterance_id", how="semi").sort("utterance_id")
        other = part.join(both, on="utterance_id", how="semi").sort("utterance_id")
        if both.is_empty():
            continue
        # Labels as the model's evaluation reads them.
        labels = [column for column in both.columns if column.endswith("_true")]
        other = other.drop(labels, strict=False).hstack(both.select(labels))
        other = other.with_columns(pl.col(f"{name}_pred").clip(0.0, 1.0) for name in DIMENSIONS)
        found[str(name)] = {
            "n_clips": both.height,
            "fitted_to": int(part[FITTED_TO][0]),
            "metrics": {one.name: interval(one, other, level=level).to_dict() for one in metrics},
            "differences": {one.name: paired_difference(one, both, other, level=level).to_dict() for one in metrics},
        }
    return found
