"""Transcribers: the corpus's transcript with its times or aligned ones, the offline recogniser, named errors."""

from __future__ import annotations

import numpy as np
import pytest

from emoray.errors import StageError
from emoray.stages.guard import run_isolating_rows
from emoray.stages.transcribe.pocketsphinx import aligner
from emoray.stages.transcribe.stage import build_transcribe


@pytest.fixture
def reference(configure):
    def build_stage(times):
        return build_transcribe(configure({"transcribe": {"reference": {"times": times}}}).transcribe)

    return build_stage


def only_error(stage, row):
    with pytest.raises(StageError) as caught:
        stage.run([row])
    return caught.value


def test_the_corpus_s_own_times_are_kept(spoken, reference):
    for times in ("auto", "corpus"):
        value = reference(times).run(spoken[:1])[0]
        assert value["text"] == spoken[0]["transcript"]
        assert value["times"] == "corpus"
        assert [(w["word"], w["start_s"]) for w in value["words"]] == [
            (w["word"], w["start_s"]) for w in spoken[0]["words"]
        ]


def test_alignment_finds_the_planted_times(spoken, reference, guard):
    outcomes = run_isolating_rows(reference("aligned"), spoken, guard)
    aligned = [(row, outcome.value) for row, outcome in zip(spoken, outcomes, strict=True) if outcome.value]
    assert len(aligned) >= 0.8 * len(spoken)
    assert {outcome.error["type"] for outcome in outcomes if outcome.error} <= {"alignment_mismatch"}
    off = []
    for row, value in aligned:
        assert value["times"] == "aligned"
        assert [word["word"] for word in value["words"]] == row["transcript"].split()
        off += [abs(a["start_s"] - b["start_s"]) for a, b in zip(value["words"], row["words"], strict=True)]
        ends = [(word["start_s"], word["end_s"]) for word in value["words"]]
        assert all(start < end <= len(row["waveform"]) / 16_000 + 0.02 for start, end in ends)
    assert np.median(off) < 0.03


def test_alignment_does_not_depend_on_what_was_aligned_before(spoken):
    row, other = spoken[0], spoken[-1]
    first = aligner().align(row["waveform"], row["transcript"])
    aligner().align(0.05 * other["waveform"], other["transcript"])
    assert aligner().align(row["waveform"], row["transcript"]) == first


def test_a_pause_is_no_part_of_the_words_beside_it(spoken):
    row = next(row for row in spoken if len(row["words"]) > 6)
    cut = round(row["words"][4]["start_s"] * 16_000)
    samples = np.concatenate([row["waveform"][:cut], np.zeros(12_000, np.float32), row["waveform"][cut:]])
    words = aligner().align(samples, row["transcript"])
    assert words[4]["start_s"] - words[3]["end_s"] > 0.5
    assert words[4]["start_s"] == pytest.approx(row["words"][4]["start_s"] + 0.75, abs=0.1)


def test_punctuation_case_and_hyphens_come_back_as_written(spoken):
    row = spoken[0]
    plain = row["transcript"].split()
    text = f"“{plain[0].upper()} {plain[1]}-{plain[2]}, — {' '.join(plain[3:])}!”"
    words = [word["word"] for word in aligner().align(row["waveform"], text)]
    assert words == [f"“{plain[0].upper()}", f"{plain[1]}-{plain[2]},", *plain[3:-1], f"{plain[-1]}!”"]


def test_a_transcript_of_another_clip_is_refused(spoken, reference, guard):
    wrong = [
        {**row, "transcript": "nobody expects seventeen purple elephants to juggle tomorrow"} for row in spoken[:8]
    ]
    outcomes = run_isolating_rows(reference("aligned"), wrong, guard)
    refused = [outcome for outcome in outcomes if outcome.error and outcome.error["type"] == "alignment_mismatch"]
    assert len(refused) >= 6


def test_what_the_corpus_does_not_give_is_named(spoken, reference):
    row = spoken[0]
    assert only_error(reference("auto"), {**row, "transcript": None}).kind == "empty_transcript"
    assert only_error(reference("auto"), {**row, "transcript": "  \n"}).kind == "empty_transcript"
    assert only_error(reference("corpus"), {**row, "words": None}).kind == "missing_word_times"
    assert only_error(reference("aligned"), {**row, "transcript": "— …"}).kind == "empty_transcript"
    assert only_error(reference("auto"), {**row, "transcript": "[LAUGHTER] (laughs) <unk>"}).kind == "empty_transcript"
    assert only_error(reference("aligned"), {**row, "transcript": "slithy brillig"}).kind == "alignment_mismatch"


def test_auto_aligns_english_and_leaves_other_languages_untimed(spoken, reference):
    row = {**spoken[0], "words": None}
    assert reference("auto").run([{**row, "language": "en-GB"}])[0]["times"] == "aligned"
    german = reference("auto").run([{**row, "language": "de", "transcript": "Heute  abend"}])[0]
    assert german["times"] == "none"
    assert german["text"] == "Heute abend"
    assert german["words"][1] == {"word": "abend", "start_s": None, "end_s": None, "emphasised": None}


@pytest.mark.parametrize("transcript", ["twas brillig", "nobody expects seventeen purple elephants to juggle tomorrow"])
def test_auto_keeps_a_transcript_that_cannot_be_aligned(spoken, reference, transcript):
    value = reference("auto").run([{**spoken[0], "words": None, "transcript": transcript}])[0]
    assert (value["text"], value["times"]) == (transcript, "none")
    assert [word["start_s"] for word in value["words"]] == [None] * len(transcript.split())
    assert only_error(reference("auto"), {**spoken[0], "words": None, "transcript": "— …"}).kind == "empty_transcript"


def test_a_word_that_the_dictionary_lacks_costs_at_most_its_own_times(spoken):
    row = next(row for row in spoken if len(row["words"]) > 5)
    planted = row["words"]
    known = [word["word"] for word in planted]
    for unknown in ([2], [0], [len(known) - 1], [1, 4]):
        text = " ".join("brillig" if index in unknown else word for index, word in enumerate(known))
        words = aligner().align(row["waveform"], text)
        assert [word["word"] for word in words] == text.split()
        off = [abs(a["start_s"] - b["start_s"]) for a, b in zip(words[1:], planted[1:], strict=True)]
        assert np.median(off) < 0.05  # the first word's start is the end of the silence before it
        assert max(off) < 0.3
    together = " ".join("slithy" if index in (2, 3) else word for index, word in enumerate(known))
    times = [word["start_s"] for word in aligner().align(row["waveform"], together)]
    assert [time is None for time in times] == [index in (2, 3) for index in range(len(known))]
    assert [time for time in times if time is not None] == sorted(time for time in times if time is not None)


def test_a_text_of_another_clip_has_no_word_that_can_be_aligned(spoken):
    with pytest.raises(StageError) as caught:
        aligner().align(spoken[0]["waveform"], "nobody expects seventeen purple elephants to juggle tomorrow")
    assert caught.value.kind == "alignment_mismatch"


def test_unknown_words_leave_no_trace_in_the_aligner(spoken):
    row = spoken[0]
    before = aligner().align(row["waveform"], row["transcript"])
    aligner().align(spoken[1]["waveform"], f"brillig {spoken[1]['transcript']}")
    assert aligner().align(row["waveform"], row["transcript"]) == before
    assert aligner().align(row["waveform"], row["transcript"], check_words=True) == before


def test_pocketsphinx_hears_words_with_times(spoken, configure):
    stage = build_transcribe(configure({"transcribe": {"kind": "pocketsphinx"}}).transcribe)
    value = stage.run(spoken[:1])[0]
    assert value["text"] == " ".join(word["word"] for word in value["words"])
    assert not any(mark in value["text"] for mark in "<>()[]")
    starts = [word["start_s"] for word in value["words"]]
    assert starts == sorted(starts)
    assert 0 < value["confidence"] <= 1
    assert (value["times"], value["language"]) == ("recogniser", "en")
    stage.run([{**spoken[1], "waveform": 0.1 * spoken[1]["waveform"]}])
    assert stage.run(spoken[:1]) == [value]  # no memory of the clip between


def test_pocketsphinx_says_when_it_hears_nothing(configure):
    stage = build_transcribe(configure({"transcribe": {"kind": "pocketsphinx"}}).transcribe)
    (outcome,) = stage.run([{"utterance_id": "hiss", "waveform": np.zeros(1600, np.float32)}])
    assert outcome.kind == "empty_transcript"
