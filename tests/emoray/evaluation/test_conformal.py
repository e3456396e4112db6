import numpy as np
import polars as pl
import pytest

from emoray.evaluation import conformal


def _frame(rng, n, level="full", sd=0.1):
    y = rng.uniform(0.2, 0.8, n)
    return pl.DataFrame(
        {"level": [level] * n, "valence_true": y, "valence_pred": y + rng.normal(0, sd, n), "arousal_pred": y}
    )


def test_half_width_is_the_finite_sample_quantile():
    errors = np.arange(1, 20) / 20  # 19 clips: rank ⌈20 · .9⌉ = 18
    assert conformal.half_width(errors, 0.9) == 18 / 20
    assert conformal.half_width(np.arange(1, 10) / 10, 0.9) == 9 / 10  # ⌈10 · .9⌉ = 9, in spite of binary fractions


def test_too_few_clips_give_the_whole_scale():
    assert conformal.half_width(np.array([0.01] * 8), 0.9) == 1.0  # ⌈9 · .9⌉ = 9 > 8
    assert conformal.half_width(np.array([]), 0.9) == 1.0


def test_coverage_holds_on_average_over_fresh_data():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        widths = conformal.fit(_frame(rng, 60), 0.9)
        found.append(conformal.coverage(_frame(rng, 200), widths)["full"]["valence"])
    # Exact expectation: ⌈61 · .9⌉ / 61 = 55/61 = .9016
    assert np.mean(found) == pytest.approx(55 / 61, abs=0.008)


def test_levels_and_dimensions_are_kept_apart():
    rng = np.random.default_rng(1)
    frame = pl.concat([_frame(rng, 100, "audio", 0.2), _frame(rng, 100, "full", 0.05)])
    widths = conformal.fit(frame, 0.9)
    assert set(widths) == {"audio", "full"}
    assert set(widths["full"]) == {"valence"}  # arousal has no labels
    assert widths["audio"]["valence"] > 2 * widths["full"]["valence"]


def test_predictions_outside_the_scale_are_clipped_before_the_error_is_taken():
    frame = pl.DataFrame({"level": ["full"] * 20, "valence_true": [1.0] * 20, "valence_pred": [1.4] * 20})
    assert conformal.fit(frame, 0.9) == {"full": {"valence": 0.0}}
