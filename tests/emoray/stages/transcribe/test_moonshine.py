"""Moonshine on real voices: what it hears, word times that can be, the same in any company."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile
import soxr

from emoray.audio.io import AUDIO_HZ
from emoray.audio.moonshine import model_folder
from emoray.stages.transcribe import moonshine as module
from emoray.stages.transcribe.moonshine import read_tokens
from emoray.stages.transcribe.stage import build_transcribe

BECKETT = "Ever tried, ever failed, no matter, try again, fail again, fail better."
CITIES = "It was the best of times, it was the worst of times. It was the age of wisdom, it was the age of foolishness."
SAID = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}


@pytest.fixture(scope="module")
def stage(configure):
    return build_transcribe(configure({"transcribe": {"kind": "moonshine"}}).transcribe)


@pytest.fixture(scope="module")
def carried():
    """Rows of real speech that the package carries beside its model, by name."""
    rows = {}
    for name in ("beckett", "two_cities"):
        path = model_folder().parent / f"{name}.wav"
        if not path.is_file():
            pytest.skip(f"this version of moonshine-voice carries no {name}.wav")
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = soxr.resample(samples.mean(axis=1), rate, AUDIO_HZ).astype(np.float32)
        rows[name] = {"utterance_id": name, "waveform": waveform, "language": None}
    return rows


def words_of(text):
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def errors(said, heard):
    """Words wrong, missing and too many."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        before, row = row, [number]
        for place, other in enumerate(heard, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (word != other)))
    return row[-1]


def assert_possible(value, row):
    """Every word of the text, each with times that are finite, in order and within the clip, or without any."""
    assert [word["word"] for word in value["words"]] == value["text"].split()
    timed = [(word["start_s"], word["end_s"]) for word in value["words"] if word["start_s"] is not None]
    assert all(0 <= start <= end <= len(row["waveform"]) / AUDIO_HZ for start, end in timed)
    assert timed == sorted(timed)
    return len(timed)


def test_it_understands_real_speech_with_word_times(stage, carried):
    (value,) = stage.run([carried["beckett"]])
    assert value["text"] == BECKETT
    assert (value["times"], value["language"]) == ("aligned", "en")
    assert 0.5 < value["confidence"] < 1
    assert assert_possible(value, carried["beckett"]) == len(BECKETT.split())
    gaps = [b["start_s"] - a["end_s"] for a, b in zip(value["words"], value["words"][1:], strict=False)]
    assert max(gaps) > 0.3  # the speaker pauses between the phrases


def test_a_clip_beyond_the_window_is_heard_in_pieces(stage, carried):
    (value,) = stage.run([carried["two_cities"]])
    assert value["text"].startswith(CITIES)
    assert value["text"].endswith("in the superlative degree of comparison only.")
    assert assert_possible(value, carried["two_cities"]) > 0.9 * len(value["words"])


def test_a_clip_s_words_do_not_depend_on_its_company(stage, carried, spoken):
    rows = [carried["beckett"], *spoken[:3]]
    together = stage.run(rows)
    assert stage.run(rows[::-1]) == together[::-1]
    assert [stage.run([row])[0] for row in rows] == together


def test_times_can_be_left_out(stage, carried, configure):
    untimed = build_transcribe(
        configure({"transcribe": {"kind": "moonshine", "moonshine": {"times": "none"}}}).transcribe
    )
    (value,) = untimed.run([carried["beckett"]])
    assert value["text"] == BECKETT
    assert {word["start_s"] for word in value["words"]} == {None}
    assert value["times"] == "none"
    assert untimed.options() != stage.options()


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.2])
def test_the_shortest_clips_do_not_break_it(seconds, stage, carried):
    start = 5 * AUDIO_HZ
    text, confidence = module.moonshine().recognise(
        carried["beckett"]["waveform"][start : start + int(seconds * AUDIO_HZ)]
    )
    assert len(text.split()) <= 3
    assert confidence is None or 0 < confidence <= 1


def test_48_emotional_clips_of_sixteen_actors(stage, real_clips):
    paths = real_clips("ravdess")[::20]
    rows = [{"utterance_id": path.stem, "waveform": soundfile.read(path, dtype="float32")[0]} for path in paths]
    values = stage.run(rows)
    wrong = timed = words = 0
    for path, row, value in zip(paths, rows, values, strict=True):
        said = SAID[path.stem.split("-")[4]].split()
        wrong += errors(said, words_of(value["text"]))
        words += len(value["words"])
        timed += assert_possible(value, row)
    assert len(paths) == 48
    assert wrong / (6 * len(paths)) < 0.08
    assert timed / words > 0.95


def test_the_vocabulary_is_read_as_it_is_written():
    long = "x" * 300
    raw = b"\x03<s>\x05<unk>\x02\xe2\x96\x01<" + bytes([128 + 300 % 128, 300 // 128]) + long.encode()
    assert read_tokens(raw) == [b"", b"", b"\xe2\x96", b"<", long.encode()]
