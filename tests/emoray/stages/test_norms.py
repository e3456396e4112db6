"""Norms: figures worked out by hand, shrinkage, and independence of the order of rows."""

from __future__ import annotations

import json
import random

import numpy as np
import polars as pl
import pytest
from error_kit import of_kind

from emoray.errors import InputError, StageError
from emoray.stages.norms import Norms, NormsConfig
from emoray.stages.prosodic_features import MEASURES, measure_prosodic_features

CONFIG = NormsConfig(enrol_clips=3)


@pytest.fixture
def clip(speak):
    """A clip of one steady word at a pitch, in semitones over 100 Hz."""

    def build_clip(number, speaker, pitch_st, split="train"):
        row = speak([("word", 0.1, 0.5, 100.0 * 2 ** (pitch_st / 12), -20.0)], 0.6)
        return {**row, "utterance_id": f"c{number}", "speaker_id": speaker, "split": split}

    return build_clip


def test_measures_of_a_clip_made_by_hand(speak):
    row = speak([("one", 0.1, 0.4, 100.0, -20.0), ("three", 0.5, 0.9, 200.0, -30.0)], 1.0)
    measures = measure_prosodic_features(row["prosody"], row["transcribe"])
    assert set(measures) == set(MEASURES)
    assert measures["pitch_st"] == pytest.approx(12.0)  # 40 frames of 200 Hz against 30 of 100 Hz
    assert measures["range_st"] == pytest.approx(12.0)
    assert measures["level_db"] == pytest.approx((30 * -20 + 40 * -30) / 70)
    assert measures["pause_share"] == pytest.approx(10 / 80)
    assert measures["voiced_share"] == 1.0
    assert measures["rate_hz"] == pytest.approx(8 / 0.7)
    assert measures["slope_st_s"] > 0 > measures["change_db_s"]


def test_a_clip_without_voice_or_words_lacks_what_needs_them(speak):
    row = speak([("psst", 0.1, 0.5, 0.0, -20.0)], 0.6)
    measures = measure_prosodic_features(row["prosody"], None)
    assert not {"pitch_st", "range_st", "slope_st_s", "jitter_st", "rate_hz"} & set(measures)
    assert measures["voiced_share"] == 0.0


def test_untimed_words_are_counted_over_the_time_of_speech(speak):
    row = speak([("word", 0.1, 0.5, 100.0, -20.0)], 0.6)
    row["transcribe"]["words"][0].update(start_s=None, end_s=None)
    assert measure_prosodic_features(row["prosody"], row["transcribe"])["rate_hz"] == pytest.approx(4 / 0.4)


def test_variance_components_by_hand(clip):
    # Speakers a: 0, 2; b: 10, 12. Within: (1+1+1+1)/(4−2) = 2; between: (2·25+2·25 − 2)/2 = 49.
    rows = [clip(0, "a", 0), clip(1, "a", 2), clip(2, "b", 10), clip(3, "b", 12)]
    figure = Norms.fit(rows, CONFIG).corpus["pitch_st"]
    assert figure["mean"] == pytest.approx(6.0, abs=1e-3)
    assert figure["within"] == pytest.approx(2.0, abs=1e-3)
    assert figure["between"] == pytest.approx(49.0, abs=1e-2)


def test_a_speaker_is_shrunk_towards_the_corpus_by_the_number_of_clips(plain_norms, clip):
    # Variance 1 within, 3 between, corpus mean 0: n clips of mean m give 3nm/(3n+1).
    one = plain_norms.enroll("x", [clip(0, None, 4.0)]).for_speaker("x")
    assert one.mean["pitch_st"] == pytest.approx(3.0, abs=1e-3)
    assert one.sd["pitch_st"] == pytest.approx(np.sqrt(1 + 3 / 4), abs=1e-3)
    many = plain_norms.enroll("x", [clip(i, None, 4.0) for i in range(33)]).for_speaker("x")
    assert many.mean["pitch_st"] == pytest.approx(3.96, abs=1e-3)
    nobody = plain_norms.for_speaker("somebody else")
    assert (nobody.mean["pitch_st"], nobody.sd["pitch_st"], nobody.clips) == (0.0, 2.0, 0)
    assert plain_norms.for_speaker(None) == nobody


def test_enrolling_keeps_the_hash_and_the_original(plain_norms, clip):
    enrolled = plain_norms.enroll("x", [clip(0, None, 4.0)])
    assert enrolled.hash == plain_norms.hash
    assert plain_norms.for_speaker("x").clips == 0
    with pytest.raises(InputError):
        plain_norms.enroll("x", [])


def test_order_of_rows_changes_nothing(heard):
    shuffled = list(heard)
    random.Random(1).shuffle(shuffled)
    first, second = Norms.fit(heard, CONFIG), Norms.fit(iter(shuffled), CONFIG)
    assert first.hash == second.hash
    assert first.to_json() == second.to_json()


def test_order_of_rows_decides_nothing_where_clips_do_not_differ(speak, monkeypatch):
    # Each clip speaks the same words, each as long as the others, at one pitch: slope and variances are zero but for
    # rounding, which follows the order of sums, and which clips are summed together first.
    monkeypatch.setattr("emoray.stages.norms.CLIPS_AT_ONCE", 8)
    rows = []
    for number in range(60):
        step_s = 0.31 + 0.0037 * number
        words = [
            (word, step_s * (place + 0.3), step_s * (place + 1.2)) for place, word in enumerate(("a", "few", "words"))
        ]
        spoken = [(word, start_s, end_s, 133.7, -20.3) for word, start_s, end_s in words]
        rows.append(speak(spoken, 2.0, utterance_id=f"c{number}", speaker_id=f"s{number % 5}"))
    fitted = []
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        fitted.append(Norms.fit(rows, CONFIG))
    assert len({norms.hash for norms in fitted}) == 1
    assert fitted[0].corpus["pitch_st"]["within"] == fitted[0].corpus["pitch_st"]["between"] == 0.0
    assert fitted[0].word_s == Norms.unfitted().word_s


def test_json_round_trip_keeps_figures_and_hash(norms, heard):
    again = Norms.from_json(json.loads(json.dumps(norms.to_json())))
    assert again.hash == norms.hash
    speaker = heard[0]["speaker_id"]
    assert again.for_speaker(speaker) == norms.for_speaker(speaker)
    assert len(json.dumps(norms.to_json())) < 1500 + 300 * len(norms.speakers)
    with pytest.raises(InputError, check=of_kind("unknown_format")):
        Norms.from_json({"format": 99})


def test_corpus_figures_come_from_train_alone_and_speakers_from_all_splits(clip):
    train = [clip(0, "a", 0), clip(1, "a", 2), clip(2, "b", 10), clip(3, "b", 12)]
    test = [clip(4, "c", 30, "test"), clip(5, "c", 32, "test")]
    alone, both = Norms.fit(train, CONFIG), Norms.fit(train + test, CONFIG)
    assert both.corpus == alone.corpus
    assert both.word_s == alone.word_s
    assert both.speakers["c"]["pitch_st"] in (pytest.approx(30.0, abs=1e-2), pytest.approx(32.0, abs=1e-2))
    assert both.hash != alone.hash


def test_at_most_enrol_clips_of_a_speaker_whatever_their_split(clip):
    rows = [clip(i, "a", float(i), "train" if i % 2 else "test") for i in range(12)]
    fitted = Norms.fit(rows, CONFIG)
    assert fitted.speakers["a"]["clips"] == 3
    relabelled = [{**row, "split": "train"} for row in rows]
    assert Norms.fit(relabelled, CONFIG).speakers == fitted.speakers


def test_enrolment_clips_are_known_and_at_most_half_of_a_speakers(clip):
    rows = [clip(i, speaker, 0.0) for speaker, number in (("a", 9), ("b", 4), ("c", 1)) for i in range(number)]
    rows = [{**row, "utterance_id": f"{row['speaker_id']}{i}"} for i, row in enumerate(rows)]
    utterances = pl.DataFrame([{name: row[name] for name in ("utterance_id", "speaker_id")} for row in rows])
    fitted = Norms.fit(rows, CONFIG)
    enrols = utterances.with_columns(enrols=fitted.enrolment_clips(utterances))
    numbers = {name: own["enrols"].sum() for (name,), own in enrols.group_by("speaker_id")}
    assert numbers == {"a": 3, "b": 2, "c": 0}
    assert {name: own["clips"] for name, own in fitted.speakers.items()} == {"a": 3, "b": 2}
    # What the norms rest on is what is said: without the other clips they are the same.
    alone = Norms.fit([row for row, one in zip(rows, enrols["enrols"], strict=True) if one] * 2, CONFIG)
    assert alone.speakers["b"]["pitch_st"] == fitted.speakers["b"]["pitch_st"]
    again = Norms.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again.enrolment_clips(utterances).equals(fitted.enrolment_clips(utterances))
    unknown = Norms.fit(rows, NormsConfig(enrol_clips=0))
    assert unknown.speakers == {}
    assert unknown.hash == fitted.without_speakers().hash


def test_unknown_speakers_have_no_norms_of_their_own(clip):
    fitted = Norms.fit([clip(0, "Unknown", 0), clip(1, None, 2), clip(2, "a", 4), clip(3, "a", 4)], CONFIG)
    assert set(fitted.speakers) == {"a"}
    assert fitted.corpus["pitch_st"]["clips"] == 4


def test_word_duration_is_a_regression_on_letters(speak):
    # .05 + .05 s per letter.
    words = [("a", 0.0, 0.10, 100.0, -20.0), ("abc", 0.2, 0.40, 100.0, -20.0), ("abcde", 0.5, 0.80, 100.0, -20.0)]
    fitted = Norms.fit([speak(words, 1.0)], CONFIG)
    assert fitted.expected_word_s("ab") == pytest.approx(0.15)


def test_rows_without_prosody_are_skipped_and_none_at_all_is_an_error(clip):
    rows = [clip(0, "a", 0), clip(1, "a", 0), {"utterance_id": "x", "prosody": None}]
    assert Norms.fit(rows, CONFIG).speakers["a"]["clips"] == 1
    with pytest.raises(StageError) as caught:
        Norms.fit([{"utterance_id": "x", "prosody": None}], CONFIG)
    assert caught.value.kind == "no_norms"
