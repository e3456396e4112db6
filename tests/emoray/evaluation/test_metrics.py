import numpy as np
import polars as pl
import pytest
from error_kit import of_kind
from metrics_kit import bias, ccc, mae, pearson
from scipy import stats
from sklearn import metrics as reference

from emoray.errors import InputError
from emoray.evaluation import metrics


def test_ccc_by_hand():
    # p = 1, 2, 3; y = 1, 3, 5: means 2 and 3, population variances 2/3 and 8/3, covariance 4/3.
    # CCC = (2 · 4/3) / (2/3 + 8/3 + 1) = 8/13
    assert ccc(np.array([1.0, 2, 3]), np.array([1.0, 3, 5])) == pytest.approx(8 / 13, abs=1e-12)


def test_ccc_divides_by_n_not_by_n_minus_1():
    p, y = np.array([0.0, 1]), np.array([0.0, 2])
    # Population: var 1/4 and 1, cov 1/2, mean difference 1/2 → 1 / (5/4 + 1/4) = 2/3. With n − 1 it would be .727…
    assert ccc(p, y) == pytest.approx(2 / 3, abs=1e-12)


def test_ccc_punishes_offset_and_scale_where_pearson_does_not():
    y = np.random.default_rng(0).normal(size=500)
    assert pearson(3 * y + 1, y) == pytest.approx(1)
    assert ccc(3 * y + 1, y) < 0.65
    assert ccc(y, y) == pytest.approx(1)
    assert ccc(-y, y) < -0.9


def test_pearson_mae_bias_against_references():
    rng = np.random.default_rng(1)
    p, y = rng.normal(size=300), rng.normal(size=300)
    assert pearson(p, y) == pytest.approx(stats.pearsonr(p, y).statistic, abs=1e-12)
    assert mae(p, y) == pytest.approx(reference.mean_absolute_error(y, p), abs=1e-12)
    assert bias(p, y) == pytest.approx((p - y).mean(), abs=1e-12)


def test_a_constant_prediction_has_no_concordance_and_no_correlation():
    y = np.random.default_rng(2).uniform(size=1000)
    assert ccc(np.full(1000, 0.1), y) == 0
    assert np.isnan(pearson(np.full(1000, 0.1), y))


def test_unlabelled_clips_count_nowhere():
    p, y = np.array([0.1, 0.5, 0.9, 0.3]), np.array([0.2, 0.4, np.nan, 0.6])
    assert ccc(p, y) == pytest.approx(ccc(p[[0, 1, 3]], y[[0, 1, 3]]), abs=1e-12)
    assert np.isnan(ccc(p, np.full(4, np.nan)))


def test_a_nan_prediction_shows():
    assert np.isnan(ccc(np.array([0.1, np.nan, 0.3]), np.array([0.1, 0.2, 0.3])))


CLASSES = ["anger", "happiness", "neutral", "sadness"]


def categorical(kind, predicted, true):
    frame = pl.DataFrame({"emotion_pred": predicted, "emotion_true": true})
    return metrics.categorical(kind, CLASSES)(frame)


def test_categorical_metrics_against_scikit_learn():
    rng = np.random.default_rng(3)
    true = rng.choice(CLASSES, 400, p=[0.6, 0.1, 0.2, 0.1]).tolist()
    predicted = [t if rng.uniform() < 0.6 else str(rng.choice(CLASSES)) for t in true]
    assert categorical("ua", predicted, true) == pytest.approx(reference.balanced_accuracy_score(true, predicted))
    assert categorical("wa", predicted, true) == pytest.approx(reference.accuracy_score(true, predicted))
    assert categorical("macro_f1", predicted, true) == pytest.approx(
        reference.f1_score(true, predicted, average="macro")
    )
    expected = reference.confusion_matrix(true, predicted, labels=CLASSES)
    assert (metrics.confusion(predicted, true, CLASSES) == expected).all()


def test_a_class_without_clips_does_not_lower_ua():
    assert categorical("ua", ["anger", "neutral"], ["anger", "neutral"]) == 1
    assert categorical("macro_f1", ["anger", "neutral"], ["anger", "neutral"]) == 1


def test_an_unknown_class_is_named():
    with pytest.raises(InputError, match="'joy'", check=of_kind("unknown_class")):
        metrics.confusion(["joy"], ["anger"], CLASSES)


def test_frame_metrics_are_in_corpus_units_and_average_the_dimensions():
    rng = np.random.default_rng(4)
    y, p = rng.uniform(size=(50, 3)), rng.uniform(size=(50, 3))
    columns = {f"{d}_true": y[:, i] for i, d in enumerate(("valence", "arousal", "dominance"))}
    columns |= {f"{d}_pred": p[:, i] for i, d in enumerate(("valence", "arousal", "dominance"))}
    frame = pl.DataFrame(columns | {"scale_min": [1.0] * 50, "scale_max": [7.0] * 50})
    assert metrics.dimensional("mae", "arousal")(frame) == pytest.approx(6 * np.abs(p - y)[:, 1].mean())
    assert metrics.dimensional("bias", "arousal")(frame) == pytest.approx(6 * (p - y)[:, 1].mean())
    each = [ccc(p[:, i], y[:, i]) for i in range(3)]
    assert metrics.dimensional("ccc", "dominance")(frame) == pytest.approx(each[2], abs=1e-12)
    assert metrics.mean_ccc()(frame) == pytest.approx(np.mean(each), abs=1e-12)


THREE = ["anger", "joy", "neutral"]


def _with_probabilities(clips=400, seed=0):
    """Probabilities that are as sharp as they say: the true class is drawn from them; every ninth clip has no label."""
    random = np.random.default_rng(seed)
    probability = random.dirichlet([0.7, 1.0, 2.0], clips)
    true = [THREE[random.choice(3, p=row)] if place % 9 else None for place, row in enumerate(probability)]
    likeliest = [THREE[place] for place in probability.argmax(1)]
    columns = {"emotion_true": true, "emotion_pred": likeliest, "emotion_probabilities": probability.tolist()}
    return pl.DataFrame(columns), probability


def test_calibration_by_hand():
    frame, probability = _with_probabilities()
    there = [place for place in range(frame.height) if place % 9]
    true = np.array([THREE.index(frame["emotion_true"][place]) for place in there])
    known = probability[there]
    brier = np.mean([((row - np.eye(3)[one]) ** 2).sum() for row, one in zip(known, true, strict=True)])
    assert metrics.calibration("brier", THREE)(frame) == pytest.approx(brier)
    top, right = known.max(1), known.argmax(1) == true
    number = np.minimum((top * 10).astype(int), 9)
    gaps = [
        abs(right[number == one].mean() - top[number == one].mean()) * (number == one).mean() for one in set(number)
    ]
    assert metrics.calibration("ece", THREE)(frame) == pytest.approx(sum(gaps))
    clips, _, shares = metrics.reliability(frame, THREE)
    assert (clips.sum(), shares.sum()) == (len(there), right.sum())


def test_sure_probabilities_that_are_no_better_are_worse_calibrated():
    frame, _ = _with_probabilities(2000)
    sure = [[float(place == np.argmax(row)) for place in range(3)] for row in frame["emotion_probabilities"].to_list()]
    sharp = frame.with_columns(emotion_probabilities=pl.Series(sure))
    ece = metrics.calibration("ece", THREE)
    assert ece(frame) < 0.06 < 0.25 < ece(sharp)


def test_recall_of_each_class_averages_to_ua():
    frame, _ = _with_probabilities()
    recalls = [metrics.recall(name, THREE)(frame) for name in THREE]
    assert np.mean(recalls) == pytest.approx(metrics.categorical("ua", THREE)(frame))
    none = frame.filter((pl.col("emotion_true") != "joy").fill_null(True))
    assert np.isnan(metrics.recall("joy", THREE)(none))
