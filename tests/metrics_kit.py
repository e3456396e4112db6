"""Metrics of two vectors, by the product's metrics of a frame."""

from __future__ import annotations

import numpy as np
import polars as pl

from emoray.evaluation import metrics


def _of(kind: str, prediction: np.ndarray, target: np.ndarray) -> float:
    frame = pl.DataFrame({"valence_pred": prediction, "valence_true": target})
    with np.errstate(divide="ignore", invalid="ignore"):
        return metrics.dimensional(kind, "valence")(frame)


def ccc(prediction: np.ndarray, target: np.ndarray) -> float:
    return _of("ccc", prediction, target)


def pearson(prediction: np.ndarray, target: np.ndarray) -> float:
    return _of("pearson", prediction, target)


def mae(prediction: np.ndarray, target: np.ndarray) -> float:
    return _of("mae", prediction, target)


def bias(prediction: np.ndarray, target: np.ndarray) -> float:
    return _of("bias", prediction, target)
