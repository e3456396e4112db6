"""Split conformal intervals around predicted dimensions.

Half width = the ⌈(n + 1)·level⌉-th smallest ``|prediction − label|`` on the clips of dev that did not choose the epoch
(Vovk 2005; Lei et al. 2018). Under exchangeability of dev and test clips the interval prediction ± half width covers
the label with at least the nominal probability. Dev and test voices differ, so exchangeability is only approximate:
reports print the coverage measured on test.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from emoray.errors import InputError
from emoray.evaluation.metrics import labelled_dimensions

#: Half widths by semantic level and dimension, in units of the [0, 1] scale.
HalfWidths = dict[str, dict[str, float]]

#: On a [0, 1] scale no error is larger: the half width when there are too few clips for the level.
WHOLE_SCALE = 1.0


def half_width(error: np.ndarray, level: float) -> float:
    """Half width that covers a new clip with probability `level`, from the calibration clips' ``|prediction − label|``.

    NaN is unlabelled. The result is the finite-sample quantile, or the whole scale when there are fewer than level / (1
    − level) clips.
    """
    if not 0 < level < 1:
        raise InputError(f"level {level} is not between 0 and 1")
    errors = np.sort(error[np.isfinite(error)].ravel())
    # The product is rounded before the ceiling: 10 · .9 is 9.000000000000002 in binary.
    rank = math.ceil(round((errors.size + 1) * level, 9))
    return float(errors[rank - 1]) if rank <= errors.size else WHOLE_SCALE


def fit(dev: pl.DataFrame, level: float) -> HalfWidths:
    """Half widths per semantic level and labelled dimension from predictions on dev.

    Predictions are clipped to the scale first, as the scorer does.
    """
    widths: HalfWidths = {}
    for name, frame in _by_level(dev):
        widths[name] = {d: half_width(_error(frame, d), level) for d in labelled_dimensions(frame)}
    return widths


def coverage(frame: pl.DataFrame, widths: HalfWidths) -> dict[str, dict[str, float]]:
    """Share of labelled clips whose label is within prediction ± half width, per semantic level and dimension."""
    found: dict[str, dict[str, float]] = {}
    for name, part in _by_level(frame):
        found[name] = {}
        for dimension in labelled_dimensions(part):
            if dimension in widths.get(name, {}):
                error = _error(part, dimension)
                error = error[np.isfinite(error)]
                found[name][dimension] = float(np.mean(error <= widths[name][dimension] + 1e-12))
    return found


def _by_level(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    return [(str(key[0]), part) for key, part in frame.group_by("level", maintain_order=True)]


def _error(frame: pl.DataFrame, dimension: str) -> np.ndarray:
    prediction = frame[f"{dimension}_pred"].cast(pl.Float64).to_numpy().clip(0.0, 1.0)
    return np.abs(prediction - frame[f"{dimension}_true"].cast(pl.Float64).to_numpy())
