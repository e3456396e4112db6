import numpy as np
import polars as pl
import pytest
from error_kit import of_kind
from metrics_kit import ccc
from scipy import stats

from emoray.errors import InputError
from emoray.evaluation import intervals, metrics
from emoray.evaluation.intervals import holm, interval, paired_difference, paired_p_value

CCC = metrics.dimensional("ccc", "valence")


def _frame(speakers=12, per=9, noise=0.1, seed=0, truth_seed=0):
    truth = np.random.default_rng(truth_seed)
    rng = np.random.default_rng(seed + 1000)
    n = speakers * per
    y = 0.5 + np.repeat(truth.normal(0, 0.1, speakers), per) + truth.normal(0, 0.1, n)
    p = y + np.repeat(rng.normal(0, noise, speakers), per) + rng.normal(0, noise, n)
    return pl.DataFrame(
        {
            "utterance_id": [f"u{i:04d}" for i in range(n)],
            "speaker_id": [f"s{i // per}" for i in range(n)],
            "valence_true": y,
            "valence_pred": p,
        }
    )


def test_interval_equals_a_naive_jackknife():
    frame = _frame()
    speakers = frame["speaker_id"].unique().to_list()
    without = []
    for speaker in speakers:
        rest = frame.filter(pl.col("speaker_id") != speaker)
        without.append(np.arctanh(ccc(rest["valence_pred"].to_numpy(), rest["valence_true"].to_numpy())))
    whole = ccc(frame["valence_pred"].to_numpy(), frame["valence_true"].to_numpy())
    error = np.sqrt(11 / 12 * np.sum((np.array(without) - np.mean(without)) ** 2))
    width = 2.200985 * error  # Student's t, 11 degrees of freedom, .975
    found = interval(CCC, frame)
    assert [found.low, found.high] == pytest.approx(np.tanh(np.arctanh(whole) + np.array([-width, width])), abs=1e-6)
    assert found.estimate == pytest.approx(whole)
    assert (found.unit, found.n_units, found.n_clips) == ("speaker", 12, 108)


def test_interval_over_many_clips_agrees_with_scipys_bootstrap():
    frame = _frame(speakers=200, per=1).drop("speaker_id")
    found = interval(CCC, frame)
    expected = stats.bootstrap(
        (frame["valence_pred"].to_numpy(), frame["valence_true"].to_numpy()),
        ccc,
        paired=True,
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=0.02)
    assert found.high == pytest.approx(expected.high, abs=0.02)


def test_over_speakers_it_is_wider_than_over_clips():
    frame = _frame()
    by_speaker, by_clip = interval(CCC, frame), interval(CCC, frame, unit="clip")
    assert by_speaker.high - by_speaker.low > 1.3 * (by_clip.high - by_clip.low)


@pytest.mark.parametrize("speakers", [3, 8, 60])
def test_interval_holds_its_level_over_fresh_speakers(speakers):
    # With many speakers the truth of this generator is known: CCC over an infinity of speakers.
    true = CCC(_frame(speakers=20_000, per=4, seed=5, truth_seed=6))
    hits = 0
    for trial in range(150):
        found = interval(CCC, _frame(speakers=speakers, per=4, seed=trial, truth_seed=trial + 500))
        hits += found.low <= true <= found.high
    assert 132 <= hits <= 150  # at least .88; a percentile bootstrap has some .7 with 3 speakers


def test_equal_models_differ_about_as_often_as_the_level_says():
    above = 0
    for trial in range(300):
        pair = (_frame(speakers=4, seed=2 * trial + one, truth_seed=trial + 500) for one in range(2))
        above += paired_difference(CCC, *pair).low > 0
    assert above <= 18  # nominal .025, so 7.5; a percentile bootstrap has some 27


def test_unknown_speakers_fall_back_to_dialogues_then_clips():
    frame = pl.DataFrame(
        {
            "speaker_id": ["a", "a", "Unknown", "Unknown", None, None],
            "dialogue_id": ["x", "y", "x", "x", None, None],
        }
    )
    groups = intervals.clusters(frame)
    assert groups.unit == "speaker+dialogue+clip"
    assert groups.n_units == 4  # a; x; and two clips alone
    assert "2 of 6 clips" in groups.warning
    assert "only 2" in intervals.clusters(frame.head(4)).warning
    assert intervals.clusters(_frame(speakers=20)).warning is None
    assert intervals.clusters(frame.drop("speaker_id").head(4)).n_units == 2


def test_one_speaker_is_left_to_its_clips_with_a_warning():
    groups = intervals.clusters(_frame(speakers=1, per=5))
    assert groups.unit == "clip"
    assert "only one speaker" in groups.warning


def test_paired_difference_is_narrower_than_two_intervals_and_signed():
    good, bad = _frame(noise=0.05, seed=1), _frame(noise=0.15, seed=2)
    found = paired_difference(CCC, good, bad)
    assert found.estimate == pytest.approx(CCC(good) - CCC(bad))
    assert found.low > 0
    reverse = paired_difference(CCC, bad, good)
    assert (reverse.low, reverse.high) == pytest.approx((-found.high, -found.low))
    same = paired_difference(CCC, good, good.sample(fraction=1, shuffle=True, seed=3))
    assert (same.low, same.estimate, same.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_seeds_are_averaged_before_speakers_are_left_out():
    seeds = [_frame(seed=s) for s in range(3)]
    found = interval(CCC, seeds)
    singles = [CCC(frame) for frame in seeds]
    assert found.estimate == pytest.approx(np.mean(singles))
    assert found.seed_sd == pytest.approx(np.std(singles, ddof=1))
    difference = paired_difference(CCC, seeds, [_frame(seed=9)])
    assert difference.estimate == pytest.approx(np.mean(singles) - CCC(_frame(seed=9)))


def test_different_clips_or_labels_are_refused():
    frame = _frame()
    with pytest.raises(InputError, check=of_kind("different_clips")):
        paired_difference(CCC, frame, frame.head(50))
    with pytest.raises(InputError, match="valence_true", check=of_kind("different_labels")):
        paired_difference(CCC, frame, frame.with_columns(pl.col("valence_true") + 0.1))


def test_rates_stay_between_0_and_1():
    classes = ["a", "b"]
    frame = pl.DataFrame(
        {
            "speaker_id": [f"s{i // 4}" for i in range(40)],
            "emotion_true": ["a", "b"] * 20,
            "emotion_pred": (["a", "b"] * 15) + ["b", "a"] * 5,
        }
    )
    found = interval(metrics.categorical("ua", classes), frame)
    assert found.estimate == 0.75
    assert 0.3 < found.low < 0.75 < found.high <= 1
    right = frame.with_columns(pl.col("emotion_true").alias("emotion_pred"))
    found = interval(metrics.categorical("wa", classes), right)
    assert (found.low, found.estimate, found.high) == (1, 1, 1)


def test_the_p_value_is_one_half_minus_the_level_at_which_the_interval_ends_at_zero():
    one, other = _frame(noise=0.11, seed=1), _frame(noise=0.1, seed=2)
    for first, second in ((one, other), (other, one)):
        p = paired_p_value(CCC, first, second)
        difference = paired_difference(CCC, first, second, level=abs(1 - 2 * p))
        end = difference.high if difference.estimate < 0 else difference.low
        assert end == pytest.approx(0, abs=1e-9)
        assert (p < 0.5) == (difference.estimate < 0)
    assert paired_p_value(CCC, one, one) == 1.0
    assert np.isnan(paired_p_value(CCC, one.head(1), other.head(1)))


def test_holm_multiplies_by_what_is_left_and_never_falls():
    # Worked by hand: .01·4, .02·3, then .03·2 = .06, and .9.
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.4, 0.5]) == pytest.approx([0.8, 0.8])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
