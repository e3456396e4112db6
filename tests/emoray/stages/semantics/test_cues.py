"""Cues: grading by hand, the shared record, and a linear probe that reads the prosody off the frozen vectors."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from emoray.stages.embed import EmbedSemantics
from emoray.stages.norms import Expectation
from emoray.stages.prosodic_features import MEASURES
from emoray.stages.semantics.cues import STEPS_SD, WORDS, describe, grade
from emoray.stages.semantics.record import SemanticsRecord, render_semantics, semantics_value
from emoray.stages.semantics.stage import CuesConfig, CuesSemantics

STANDARD = Expectation(dict.fromkeys(MEASURES, 0.0), {**dict.fromkeys(MEASURES, 1.0), "pitch_st": 2.0}, clips=5)
GOOD = SemanticsRecord(
    vocal_delivery="Fast.",
    intention="to share",
    attitude="warm",
    valence="very pleasant",
    arousal="highly activated",
    dominance="in control",
    emotion="joy",
    intensity=1.0,
    summary="Good news.",
)


def test_eleven_steps_for_every_measure():
    assert set(WORDS) == set(MEASURES)
    assert all(len(phrases) == 2 * len(STEPS_SD) + 1 == len(set(phrases)) for phrases in WORDS.values())
    everything = [phrase for phrases in WORDS.values() for phrase in phrases]
    assert len(set(everything)) == len(everything)  # no phrase means two things
    assert [grade(value) for value in (-9, -1.2, -0.1, 0.1, 0.2, 0.7, 9)] == [0, 2, 5, 5, 6, 7, 10]
    assert WORDS["rate_hz"][grade(-0.7)] == "pace somewhat slower"


def test_a_low_loud_fast_clip_in_words_and_units():
    expected = Expectation({**dict.fromkeys(MEASURES, 0.0), "rate_hz": 10.0}, STANDARD.sd, clips=5)
    cues = describe({"pitch_st": -5.2, "level_db": 1.5, "rate_hz": 11.0, "range_st": 0.0}, expected)
    assert cues.vocal_delivery == "Voice clearly louder, pitch very much lower, melody as usual, pace somewhat faster."
    assert cues.summary == "Compared with the speaker's habit: 2 dB louder, 5 semitones lower, 10 percent faster."
    assert cues.text == f"{cues.vocal_delivery} {cues.summary}"


def test_an_unknown_speaker_is_not_said_to_have_habits():
    nobody = Expectation(STANDARD.mean, STANDARD.sd, clips=0)
    assert describe({"pitch_st": 1.1}, nobody).summary == "Compared with the usual: 1 semitones higher."
    assert describe({"pitch_st": 0.1}, nobody).summary == "Compared with the usual: no difference."


def test_what_was_not_measured_is_not_said():
    whispered = describe({"level_db": -3.0, "pause_share": 0.0, "rate_hz": 0.5}, STANDARD)
    assert whispered.vocal_delivery == "Voice very much quieter, pace slightly faster, pausing as usual."
    assert "semitones" not in whispered.summary
    nothing = describe({}, STANDARD)
    assert nothing.text == "Nothing measurable. Nothing to compare."


def test_cues_give_no_verdict(speak, plain_norms):
    row = speak([("word", 0.1, 0.5, 150.0, -20.0)], 0.6)
    (value,) = CuesSemantics(CuesConfig(against="speaker"), plain_norms).run([row])
    assert {name for name, said in value.items() if said is not None} == {"vocal_delivery", "summary", "text"}
    assert set(value) == {field.name for field in CuesSemantics.value_type}


@pytest.mark.parametrize(
    "broken",
    [{"intensity": 1.2}, {"intensity": float("nan")}, {"emotion": ""}, {"summary": "x" * 601}, {"mood": "grey"}],
)
def test_the_record_is_checked(broken):
    good = GOOD.model_dump()
    with pytest.raises(ValidationError):
        SemanticsRecord.model_validate({**good, **broken})


def test_text_holds_every_field():
    assert render_semantics(GOOD) == (
        "Fast. Good news. very pleasant, highly activated, in control. Extremely joy, warm, to share."
    )
    assert semantics_value(GOOD)["text"] == render_semantics(GOOD)


def test_the_same_clip_reads_differently_for_another_speaker(speak, plain_norms):
    row = speak([("word", 0.1, 0.5, 150.0, -20.0)], 0.6)
    low = speak([("word", 0.1, 0.5, 80.0, -20.0)], 0.6)
    norms = plain_norms.enroll("deep", [low] * 20)
    cues = CuesSemantics(CuesConfig(against="speaker"), norms)
    own, unknown = cues.run([{**row, "speaker_id": "deep"}, {**row, "speaker_id": None}])
    assert re.search(r"the speaker's habit: .*semitones higher", own["summary"])
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
        texts.append({"text": describe(measures, STANDARD).text})
    values = EmbedSemantics(config.embed).run([{"semantics": text} for text in texts])
    vectors = np.stack([value["es"] for value in values])
    train, test = slice(0, 350), slice(350, None)
    scaler = StandardScaler().fit(vectors[train])
    probe = Ridge(alpha=30.0).fit(scaler.transform(vectors[train]), deviation[train])
    read = probe.predict(scaler.transform(vectors[test]))
    correlation = {name: np.corrcoef(read[:, i], deviation[test][:, i])[0, 1] for i, name in enumerate(names)}
    assert min(correlation[name] for name in ("pitch_st", "level_db", "rate_hz", "range_st")) > 0.8
    assert min(correlation.values()) > 0.7
