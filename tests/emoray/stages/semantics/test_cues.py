"""Cues: grading by hand, the shared record, and a linear probe that reads the prosody off the frozen vectors."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from emoray.stages.embed import EmbedSemantics
from emoray.stages.norms import Expectation
from emoray.stages.prosodic_features import MEASURES
from emoray.stages.semantics.cues import GRADES_SD, WORDS, describe, deviations, grade
from emoray.stages.semantics.record import SemanticsRecord, render_semantics
from emoray.stages.semantics.stage import CuesConfig, CuesSemantics, semantics_value

STANDARD = Expectation(dict.fromkeys(MEASURES, 0.0), {**dict.fromkeys(MEASURES, 1.0), "pitch_st": 2.0}, clips=5)


def test_nine_grades_for_every_measure():
    assert set(WORDS) == set(MEASURES)
    assert all(len(words) == len(GRADES_SD) + 1 == len(set(words)) for words in WORDS.values())
    everything = [word for words in WORDS.values() for word in words]
    assert len(set(everything)) == len(everything)  # no word means two things
    assert [grade(value) for value in (-9, -1.5, 0, 0.3, 9)] == [0, 1, 4, 5, 8]


def test_deviations_are_against_what_was_expected():
    expected = Expectation({"pitch_st": 10.0, "rate_hz": 12.0}, {"pitch_st": 2.0, "rate_hz": 4.0}, clips=3)
    assert deviations({"pitch_st": 7.0, "rate_hz": 14.0, "level_db": -20.0}, expected) == {
        "pitch_st": -1.5,
        "rate_hz": 0.5,
    }


def test_a_low_loud_fast_clip_in_words():
    record = describe({"pitch_st": -5.0, "level_db": 1.5, "rate_hz": 1.0, "range_st": 0.0}, STANDARD)
    assert record.vocal_delivery == "Booming deep voice, very loud, fast, normal melody."
    assert record.summary == "Pitch 5 semitones below the speaker's habit."
    assert record.attitude == "domineering"
    assert record.emotion == "animated"
    assert record.intensity == pytest.approx(2.5 / 3 / 2.5)


def test_an_unknown_speaker_is_not_said_to_have_habits():
    nobody = Expectation(STANDARD.mean, STANDARD.sd, clips=0)
    assert describe({"pitch_st": 1.1}, nobody).summary == "Pitch 1 semitones above the usual."
    assert describe({"pitch_st": 0.1}, nobody).summary == "Pitch at the usual."


def test_nothing_measurable_is_still_a_valid_record():
    record = describe({}, STANDARD)
    assert record.vocal_delivery == "Nothing measurable."
    assert record.summary == "Pitch not measurable."


@pytest.mark.parametrize(
    "broken",
    [{"intensity": 1.2}, {"intensity": float("nan")}, {"emotion": ""}, {"summary": "x" * 601}, {"mood": "grey"}],
)
def test_the_record_is_checked(broken):
    good = describe({"pitch_st": 1.0}, STANDARD).model_dump()
    with pytest.raises(ValidationError):
        SemanticsRecord.model_validate({**good, **broken})


def test_text_holds_every_field():
    record = SemanticsRecord(
        emotion="joy",
        intensity=1.0,
        attitude="warm",
        intention="to share",
        vocal_delivery="Fast.",
        summary="Good news.",
    )
    assert render_semantics(record) == "Fast. Good news. Extremely joy, warm, to share."
    assert semantics_value(record)["text"] == render_semantics(record)


def test_the_same_clip_reads_differently_for_another_speaker(speak, plain_norms):
    row = speak([("word", 0.1, 0.5, 150.0, -20.0)], 0.6)
    low = speak([("word", 0.1, 0.5, 80.0, -20.0)], 0.6)
    norms = plain_norms.enroll("deep", [low] * 20)
    cues = CuesSemantics(CuesConfig(against="speaker"), norms)
    own, unknown = cues.run([{**row, "speaker_id": "deep"}, {**row, "speaker_id": None}])
    assert "above the speaker's habit" in own["summary"]
    assert own["text"] != unknown["text"]
    against_corpus = CuesSemantics(CuesConfig(against="corpus"), norms)
    assert against_corpus.run([{**row, "speaker_id": "deep"}]) == [unknown]


def test_words_of_the_transcript_never_enter(speak, plain_norms):
    cues = CuesSemantics(CuesConfig(against="speaker"), plain_norms)
    one = speak([("lovely", 0.1, 0.5, 150.0, -20.0)], 0.6)
    other = speak([("wicked", 0.1, 0.5, 150.0, -20.0)], 0.6)
    assert cues.run([one]) == cues.run([other])


def test_a_linear_probe_reads_the_deviations_off_the_vectors(config):
    rng = np.random.default_rng(0)
    names = list(WORDS)
    deviation = rng.normal(size=(500, len(names)))
    texts = []
    for row in deviation:
        measures = {name: value * STANDARD.sd[name] for name, value in zip(names, row, strict=True)}
        texts.append(semantics_value(describe(measures, STANDARD)))
    values = EmbedSemantics(config.embed).run([{"semantics": text} for text in texts])
    vectors = np.stack([value["es"] for value in values])
    train, test = slice(0, 350), slice(350, None)
    scaler = StandardScaler().fit(vectors[train])
    probe = Ridge(alpha=30.0).fit(scaler.transform(vectors[train]), deviation[train])
    read = probe.predict(scaler.transform(vectors[test]))
    correlation = {name: np.corrcoef(read[:, i], deviation[test][:, i])[0, 1] for i, name in enumerate(names)}
    assert correlation["pitch_st"] > 0.95
    assert min(correlation[name] for name in ("level_db", "rate_hz", "range_st")) > 0.85
    assert min(correlation.values()) > 0.75
