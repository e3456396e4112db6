"""Metrics of dimensional and categorical emotion models, in numpy.

Every metric here is a function of sums over clips (moments, or counts of a confusion matrix). The same code therefore
gives the plain value and, from sums per speaker, the values without each speaker (`emoray.evaluation.intervals`).

Shapes: N clips, S statistics, C classes; a leading `...` is any number of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from emoray.errors import InputError
from emoray.schema import DIMENSIONS

#: Columns of `moments`: n, Σp, Σy, Σp², Σy², Σpy, Σ|p − y|
N_MOMENTS = 7

#: A variance below this share of the second moment is rounding error of a constant.
_CONSTANT = 1e-13

DEFINITIONS = {
    "CCC": "concordance correlation coefficient, 2·cov(p, y) / (var p + var y + (mean p − mean y)²),"
    " with population variances",
    "Pearson": "cov(p, y) / (sd p · sd y): blind to wrong scale and offset, which CCC is not",
    "MAE": "mean absolute error, in units of the corpus's own scale",
    "bias": "mean of prediction − label, in units of the corpus's own scale",
    "UA": "unweighted accuracy (= UAR, balanced accuracy): mean of the classes' recalls, every class counts the same",
    "WA": "weighted accuracy: plain share of clips that are right, so frequent classes count more",
    "macro-F1": "mean of the classes' F1 scores",
    "ECE": "expected calibration error of the likeliest class: mean |share that is right − mean probability| over ten"
    " bins of the probability, weighted by their clips",
    "Brier": "mean over clips of Σ_c (p_c − 1[c is true])²: 0 is best, 2 is worst",
}

#: Bins of the probability of the likeliest class.
BINS = 10


def moments(prediction: np.ndarray, target: np.ndarray, unit: np.ndarray | float = 1.0) -> np.ndarray:
    """Per-clip summands for CCC, Pearson, MAE and bias.

    Args:
        target: (N,) labels; NaN = unlabelled (the clip adds nothing, not even to n).
        unit: Factor on the error's absolute value (width of the corpus's scale), scalar or (N,).

    Returns:
        (N, 7) float64: n, Σp, Σy, Σp², Σy², Σpy, Σ|p − y|·unit before summation.
    """
    p = np.asarray(prediction, dtype=np.float64)
    y = np.asarray(target, dtype=np.float64)
    if p.shape != y.shape or p.ndim != 1:
        raise InputError(f"predictions {p.shape} and labels {y.shape} must be two vectors of one length")
    labelled = np.isfinite(y)
    p, y = np.where(labelled, p, 0.0), np.where(labelled, y, 0.0)
    return np.stack([labelled.astype(np.float64), p, y, p * p, y * y, p * y, np.abs(p - y) * unit], axis=1)


def _central(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean difference, variance of p, variance of y and covariance from summed moments (..., 7)."""
    n, p, y, pp, yy, py = (sums[..., i] for i in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_p, mean_y = p / n, y / n
        var_p, var_y = pp / n - mean_p**2, yy / n - mean_y**2
        var_p = np.where(var_p <= _CONSTANT * pp / n, 0.0, var_p)
        var_y = np.where(var_y <= _CONSTANT * yy / n, 0.0, var_y)
        cov = np.where((var_p == 0) | (var_y == 0), 0.0, py / n - mean_p * mean_y)
        return mean_p - mean_y, var_p, var_y, cov


def ccc_of(sums: np.ndarray) -> np.ndarray:
    """CCC (Lin 1989, population variances) from summed moments (..., 7); NaN if both sides are one constant."""
    difference, var_p, var_y, cov = _central(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * cov / (var_p + var_y + difference**2)


def pearson_of(sums: np.ndarray) -> np.ndarray:
    """Pearson correlation from summed moments (..., 7); NaN if a side is constant."""
    _, var_p, var_y, cov = _central(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return cov / np.sqrt(var_p * var_y)


def confusion(prediction: Sequence[str], target: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    """Confusion matrix, int64 (C, C): rows are true classes, columns predicted ones; unlabelled clips are left out.

    Raises:
        InputError: A label or prediction is not among the classes.
    """
    return _one_hot_pairs(prediction, target, classes).sum(axis=0).astype(np.int64)


def _one_hot_pairs(
    prediction: Sequence[str | None], target: Sequence[str | None], classes: Sequence[str]
) -> np.ndarray:
    """Per-clip confusion matrices (N, C, C)."""
    index = {name: number for number, name in enumerate(classes)}
    pairs = np.zeros((len(target), len(classes), len(classes)))
    for row, (predicted, true) in enumerate(zip(prediction, target, strict=True)):
        if true is None:
            continue
        if true not in index or predicted not in index:
            unknown = true if true not in index else predicted
            what = f"class {unknown!r} is not among {', '.join(classes)}"
            raise InputError(what, where=f"row {row}", kind="unknown_class")
        pairs[row, index[true], index[predicted]] = 1
    return pairs


def uar_of(counts: np.ndarray) -> np.ndarray:
    """UA = UAR from confusion counts (..., C, C): mean recall over the classes that occur among the labels."""
    support = counts.sum(axis=-1)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return _mean_where(hits, support, support > 0)


def wa_of(counts: np.ndarray) -> np.ndarray:
    """WA (plain accuracy) from confusion counts (..., C, C)."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return hits / counts.sum(axis=(-2, -1))


def macro_f1_of(counts: np.ndarray) -> np.ndarray:
    """Macro-F1 from confusion counts (..., C, C), over the classes that occur among labels or predictions."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts.sum(axis=-2)
    return _mean_where(2 * hits, both, both > 0)


def _mean_where(numerator: np.ndarray, denominator: np.ndarray, present: np.ndarray) -> np.ndarray:
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=np.float64), where=present)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ratio.sum(axis=-1) / present.sum(axis=-1)


# --- metrics of a predictions frame ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A metric of a predictions frame, split into additive statistics and a function of their sums.

    Attributes:
        name: For example `ccc_valence`, `ccc_mean`, `ua`.
        per_clip: Frame of N clips → (N, S) statistics.
        value: Sums (..., S) → values (...).
    """

    name: str
    per_clip: Callable[[pl.DataFrame], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, frame: pl.DataFrame) -> float:
        """The metric's value on a frame."""
        return float(self.value(self.per_clip(frame).sum(axis=0)))


def scale_width(frame: pl.DataFrame) -> np.ndarray:
    """Width of the corpus's scale per clip, (N,); 1 if the scale is unknown."""
    if "scale_min" not in frame.columns:
        return np.ones(frame.height)
    width = frame.select((pl.col("scale_max") - pl.col("scale_min")).fill_null(1.0).alias("width"))
    return width["width"].to_numpy()


def _moments_of(dimension: str) -> Callable[[pl.DataFrame], np.ndarray]:
    def per_clip(frame: pl.DataFrame) -> np.ndarray:
        width = scale_width(frame)
        prediction = frame[f"{dimension}_pred"].cast(pl.Float64).to_numpy()
        target = frame[f"{dimension}_true"].cast(pl.Float64).to_numpy()
        # p and y minus one half: CCC and Pearson do not change, with less cancellation.
        difference = np.where(np.isfinite(target), width * (prediction - target), 0.0)
        return np.concatenate([moments(prediction - 0.5, target - 0.5, width), difference[:, None]], axis=1)

    return per_clip


_PER_DIMENSION: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ccc": ccc_of,
    "pearson": pearson_of,
    "mae": lambda sums: sums[..., 6] / sums[..., 0],
    "bias": lambda sums: sums[..., 7] / sums[..., 0],
}


def dimensional(kind: str, dimension: str) -> Metric:
    """`ccc`, `pearson`, `mae` or `bias` of one dimension (the latter two in corpus units)."""
    return Metric(f"{kind}_{dimension}", _moments_of(dimension), _PER_DIMENSION[kind])


def mean_ccc(dimensions: Sequence[str] = DIMENSIONS) -> Metric:
    """Mean of the dimensions' CCCs."""
    parts = [_moments_of(dimension) for dimension in dimensions]

    def value(sums: np.ndarray) -> np.ndarray:
        return ccc_of(sums.reshape(*sums.shape[:-1], len(dimensions), N_MOMENTS + 1)).mean(axis=-1)

    return Metric("ccc_mean", lambda frame: np.concatenate([part(frame) for part in parts], axis=1), value)


def categorical(kind: str, classes: Sequence[str]) -> Metric:
    """`ua`, `wa` or `macro_f1` over the given classes (columns emotion_true, emotion_pred)."""
    of = {"ua": uar_of, "wa": wa_of, "macro_f1": macro_f1_of}[kind]
    size = len(classes)

    def per_clip(frame: pl.DataFrame) -> np.ndarray:
        pairs = _one_hot_pairs(frame["emotion_pred"].to_list(), frame["emotion_true"].to_list(), classes)
        return pairs.reshape(frame.height, size * size)

    return Metric(kind, per_clip, lambda sums: of(sums.reshape(*sums.shape[:-1], size, size)))


def recall(name: str, classes: Sequence[str]) -> Metric:
    """Recall of one class; NaN where no clip has it."""
    pairs, row = categorical("wa", classes).per_clip, list(classes).index(name)

    def value(sums: np.ndarray) -> np.ndarray:
        counts = sums.reshape(*sums.shape[:-1], len(classes), len(classes))[..., row, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            return counts[..., row] / counts.sum(axis=-1)

    return Metric("recall", pairs, value)


def calibration(kind: str, classes: Sequence[str]) -> Metric:
    """`ece` (Guo et al. 2017, arXiv 1706.04599) or `brier` (Brier 1950) of the classes' probabilities.

    Column emotion_probabilities: a list per clip, in the order of the classes; clips without a label do not count.
    """
    per_clip, value = {"ece": (_bin_sums, _ece_of), "brier": (_squares, _brier_of)}[kind]
    return Metric(kind, lambda frame: per_clip(frame, classes), value)


def reliability(frame: pl.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Sums over the clips in each bin of the likeliest class's probability (3, BINS): clips, probability, right."""
    return _bin_sums(frame, classes).sum(0).reshape(3, BINS)


def _truth(frame: pl.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C), and the true class one-hot (N, C), zero where there is none."""
    probability_NC = np.array(frame["emotion_probabilities"].to_list(), dtype=np.float64)
    true = frame["emotion_true"].to_list()
    return probability_NC, np.array([[name == one for name in classes] for one in true], dtype=np.float64)


def _bin_sums(frame: pl.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Per clip and bin: 1, probability of the likeliest class, whether it is right, (N, 3 · BINS)."""
    probability_NC, true_NC = _truth(frame, classes)
    likeliest_N = probability_NC.argmax(1)
    top_N, rows = probability_NC.max(1), np.arange(frame.height)
    bin_N = np.minimum((top_N * BINS).astype(int), BINS - 1)
    sums = np.zeros((frame.height, 3, BINS))
    sums[rows, :, bin_N] = np.stack([np.ones(frame.height), top_N, true_NC[rows, likeliest_N]], axis=1)
    return (sums * true_NC.sum(1)[:, None, None]).reshape(frame.height, 3 * BINS)


def _ece_of(sums: np.ndarray) -> np.ndarray:
    binned = sums.reshape(*sums.shape[:-1], 3, BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(binned[..., 2, :] - binned[..., 1, :]).sum(-1) / binned[..., 0, :].sum(-1)


def _squares(frame: pl.DataFrame, classes: Sequence[str]) -> np.ndarray:
    probability_NC, true_NC = _truth(frame, classes)
    labelled_N = true_NC.sum(1)
    return np.stack([labelled_N, labelled_N * ((probability_NC - true_NC) ** 2).sum(1)], axis=1)


def _brier_of(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 1] / sums[..., 0]


def labelled_dimensions(frame: pl.DataFrame) -> list[str]:
    """Dimensions that have both predictions and at least one label in the frame, in the order V, A, D."""
    present = [d for d in DIMENSIONS if f"{d}_true" in frame.columns and f"{d}_pred" in frame.columns]
    return [d for d in present if frame[f"{d}_true"].is_not_null().any() and frame[f"{d}_true"].is_not_nan().any()]
