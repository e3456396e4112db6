"""Emphasis: features, z-scores, threshold and cap by hand; then planted emphasis in synthesised speech."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.quality.emphasis import EmphasisScore, evaluate_emphasis

from emoray.errors import StageError
from emoray.stages.emphasis import (
    FEATURES,
    Emphasis,
    emphasised,
    word_features,
    z_scores,
)


@pytest.fixture
def stage(config, plain_norms):
    return Emphasis(config.emphasis.prosody, plain_norms)


def test_features_by_hand(speak, plain_norms):
    words = [("four", 0.0, 0.4, 100.0, -20.0), ("four", 0.5, 0.9, 100.0, -20.0), ("two", 0.9, 1.5, 200.0, -10.0)]
    row = speak(words, 1.5)
    features = word_features(row["transcribe"]["words"], row["prosody"], plain_norms)
    mean_db = (80 * -20 + 60 * -10 + 10 * -90) / 150
    assert FEATURES == ("f0_max", "f0_range", "energy", "duration", "pause")
    # Median F0 of 80 frames at 100 Hz and 60 at 200 Hz: 100 Hz. A word of n letters is expected to last n/10 s.
    assert features[0] == pytest.approx([0.0, 0.0, -20 - mean_db, 0.0, 0.0], abs=1e-5)
    assert features[1] == pytest.approx([0.0, 0.0, -20 - mean_db, 0.0, 0.1], abs=1e-5)
    assert features[2] == pytest.approx([12.0, 0.0, -10 - mean_db, 1.0, 0.0], abs=1e-5)


def test_z_scores_by_hand():
    features = np.array([[0.0, 5.0, np.nan], [0.0, 5.0, 1.0], [3.0, 5.0, 3.0]])
    # Mean 1, sd √2; no spread at all; two known values ±1 about 2, and nothing said about the first word.
    expected = np.array([[-1, 0, 0], [-1, 0, -np.sqrt(2)], [2, 0, np.sqrt(2)]]) / np.sqrt(2)
    assert z_scores(features) == pytest.approx(expected)


def test_prominence_is_the_weighted_sum(speak, stage, config):
    words = [("four", 0.0, 0.4, 100.0, -20.0), ("four", 0.4, 0.8, 100.0, -20.0), ("four", 0.8, 1.2, 200.0, -20.0)]
    value = stage.run([speak(words, 1.2)])[0]
    # Only the F0 maximum varies: z = 12 semitones against mean 4, sd 4√2.
    expected = config.emphasis.prosody.weights.f0_max * np.array([-1, -1, 2]) / np.sqrt(2)
    assert [word["prominence"] for word in value["words"]] == pytest.approx(expected, abs=1e-5)
    assert [word["emphasised"] for word in value["words"]] == [False, False, True]


@pytest.mark.parametrize(
    ("prominence", "marked"),
    [
        ([0.0] * 9 + [5.0], [9]),
        # Mean 2, sd 4: threshold 6 lets two pass, and 30 % of ten words are three.
        ([10.0, 10.0] + [0.0] * 8, [0, 1]),
        # Four rise equally, 30 % allow three: the first three.
        ([4.0] * 4 + [0.0] * 6, [0, 1, 2]),
        ([1.0, 1.0, 1.0], [0]),  # nothing rises: the most prominent, the first of equals
        ([0.0, 2.0], [1]),  # two words: exactly mean + 1 sd, not above it
        ([3.0], [0]),
        ([], []),
    ],
)
def test_threshold_cap_and_fallback(prominence, marked):
    marks = emphasised(np.array(prominence), threshold_sd=1.0, max_share=0.3)
    assert np.flatnonzero(marks).tolist() == marked


@pytest.mark.parametrize("count", [1, 2])
def test_short_utterances_have_one_emphasised_word(speak, stage, count):
    words = [("one", 0.0, 0.3, 100.0, -20.0), ("two", 0.3, 0.6, 150.0, -15.0)][:count]
    value = stage.run([speak(words, 0.7)])[0]
    assert [word["emphasised"] for word in value["words"]] == [False] * (count - 1) + [True]


def test_a_voiceless_utterance_still_ranks_by_energy(speak, stage):
    words = [("one", 0.0, 0.3, 0.0, -30.0), ("two", 0.3, 0.6, 0.0, -10.0), ("six", 0.6, 0.9, 0.0, -30.0)]
    value = stage.run([speak(words, 1.0)])[0]
    assert [word["emphasised"] for word in value["words"]] == [False, True, False]


THREE = [("four", 0.0, 0.4, 100.0, -20.0), ("four", 0.4, 0.8, 100.0, -20.0), ("four", 0.8, 1.2, 200.0, -20.0)]


def without_times(row, *places):
    words = [
        word | {"start_s": None, "end_s": None} if place in places else word
        for place, word in enumerate(row["transcribe"]["words"])
    ]
    return row | {"transcribe": row["transcribe"] | {"words": words}}


def test_a_word_without_times_costs_that_word_alone(speak, stage):
    whole = stage.run([speak([THREE[0], THREE[2]], 1.2)])[0]["words"]
    words = stage.run([without_times(speak(THREE, 1.2), 1)])[0]["words"]
    assert [word["word"] for word in words] == ["four"] * 3
    assert words[1] == {"word": "four", "start_s": None, "end_s": None, "prominence": None, "emphasised": False}
    assert [word["emphasised"] for word in words] == [whole[0]["emphasised"], False, whole[1]["emphasised"]]


@pytest.mark.parametrize(
    ("language", "said"), [("en", "1 of the transcript's 3"), ("de", "this is de"), (None, "1 of")]
)
def test_too_few_times_are_an_error_not_a_guess(speak, stage, language, said):
    row = without_times(speak(THREE, 1.2), 0, 1)
    row["transcribe"]["language"] = language
    with pytest.raises(StageError, match=said) as caught:
        stage.run([row])
    assert caught.value.kind == "missing_word_times"


def test_scores_by_hand():
    predicted = [[True, False, True], [False]]
    planted = [[True, True, False], [False]]
    assert evaluate_emphasis(predicted, planted) == EmphasisScore(0.5, 0.5, 0.5, 4, 2)
    assert evaluate_emphasis([[False]], [[True]]).f1 == 0.0
    with pytest.raises(ValueError, match="pair up"):
        evaluate_emphasis([[True]], [[True, False]])


def test_planted_emphasis_is_found(spoken, config, norms):
    values = Emphasis(config.emphasis.prosody, norms).run(spoken)
    found = [[word["emphasised"] for word in value["words"]] for value in values]
    planted = [[word["emphasised"] for word in row["words"]] for row in spoken]
    assert evaluate_emphasis(found, planted).f1 >= 0.9


def test_the_planted_mark_is_not_an_input(spoken, config, norms):
    stage = Emphasis(config.emphasis.prosody, norms)
    assert all(word["emphasised"] is None for row in spoken for word in row["transcribe"]["words"])
    blind = [{**row, "words": None, "transcript": None} for row in spoken]
    assert stage.run(blind) == stage.run(spoken)
