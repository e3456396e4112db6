"""Conditions: what each does to a row, and that a clip gets the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
from scoring_kit import SENTENCE, WORDS, speech

from emoray.evaluation.robustness import RobustnessConfig, conditions
from emoray.stages.base import WAVEFORM

CONFIG = RobustnessConfig(clips=5, seed=0, snr_db=(10.0,), codecs=("g711",), speeds=(2.0,), word_errors=(0.0, 0.5, 1.0))
VOCABULARY = ["cold", "rain", "tomorrow"]


@pytest.fixture
def row():
    words = [{**word, "emphasised": None} for word in WORDS]
    return {"utterance_id": "u1", "transcript": SENTENCE, "words": words, WAVEFORM: speech(2.0, 120.0, seed=0)}


def by_name(reads_words=True):
    return {one.name: one for one in conditions(CONFIG, VOCABULARY, reads_words=reads_words)}


def test_rows_that_were_given_stay_as_they_are(row):
    before = row[WAVEFORM].copy()
    for condition in by_name().values():
        condition.change(row)
    np.testing.assert_array_equal(row[WAVEFORM], before)
    assert row["transcript"] == SENTENCE


def test_the_clean_condition_comes_first_and_changes_nothing(row):
    first = next(iter(by_name().values()))
    assert (first.kind, first.change(row)) == ("clean", row)


def test_noise_is_the_clips_own_whatever_else_is_scored(row):
    noise = by_name()["white noise, 10 dB"].change
    np.testing.assert_array_equal(noise(row)[WAVEFORM], noise(row)[WAVEFORM])
    assert not np.array_equal(noise(row)[WAVEFORM], noise({**row, "utterance_id": "u2"})[WAVEFORM])


def test_word_times_follow_the_speed(row):
    changed = by_name()["speed 2"].change(row)
    for old, new in zip(row["words"], changed["words"], strict=True):
        assert (new["start_s"], new["end_s"]) == (old["start_s"] / 2, old["end_s"] / 2)
    assert by_name()["speed 2"].change({**row, "words": None})["words"] is None


def test_words_go_wrong_by_the_share_asked_for(row):
    found = by_name()
    assert found["0 % of words wrong"].change(row)["transcript"] == " ".join(word["word"] for word in row["words"])
    wrong = found["100 % of words wrong"].change(row)
    assert set((wrong["transcript"] or "").split()) <= set(VOCABULARY)
    rows = [{**row, "utterance_id": f"u{number}"} for number in range(200)]
    words = [word for one in rows for word in found["50 % of words wrong"].change(one)["words"] or []]
    share = sum(word["word"] not in VOCABULARY for word in words) / (len(rows) * len(row["words"]))
    assert share == pytest.approx(0.5, abs=0.05)


def test_a_row_without_words_and_one_without_transcript(row):
    half = by_name()["50 % of words wrong"].change
    assert half({**row, "words": None})["words"] is None
    assert half({**row, "words": None, "transcript": None})["transcript"] is None


def test_versions_that_recognise_get_no_planted_word_errors():
    assert not [one for one in by_name(reads_words=False).values() if one.kind == "words"]
