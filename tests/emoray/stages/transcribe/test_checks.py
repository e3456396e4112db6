"""Texts that recognisers invent: none for a clip without speech, and none that says the same over and over."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from emoray.audio.io import AUDIO_HZ
from emoray.stages.transcribe.checks import has_speech, longest_repeat, refuse_repeats
from emoray.stages.transcribe.recognise import Hypothesis, Recognise, possible_times
from emoray.stages.transcribe.stage import build_transcribe


class Parrot(Recognise):
    """A recogniser that hears the same in every clip, as a bad one does."""

    version = 1

    def __init__(self, config, says):
        super().__init__(config.checks, "none")
        self.says = says
        self.clips = 0

    def options(self):
        return {}

    def hear(self, clips):
        self.clips += len(clips)
        return [Hypothesis(self.says, "en")] * len(clips)


def silences():
    """Clips of three seconds in which nobody speaks, by name."""
    random = np.random.default_rng(0)
    steps = np.arange(3 * AUDIO_HZ)
    brown = np.cumsum(random.normal(0, 0.002, len(steps)))
    return {
        "digital silence": np.zeros(len(steps)),
        "faint noise": random.normal(0, 0.001, len(steps)),
        "loud noise": random.normal(0, 0.1, len(steps)),
        "rumble": brown - brown.mean(),
        "tone": 0.1 * np.sin(2 * np.pi * 440 * steps / AUDIO_HZ),
        "clicks": 0.5 * (steps % 1600 == 0),
    }


@pytest.mark.parametrize("name", silences())
def test_where_nobody_speaks_there_is_no_text(name, configure):
    samples = silences()[name].astype(np.float32)
    parrot = Parrot(configure().transcribe, "thank you for watching")
    (outcome,) = parrot.run([{"utterance_id": "still", "waveform": samples}])
    assert outcome.kind == "empty_transcript"
    assert parrot.clips == 0  # nor does it cost a recognition
    unchecked = configure({"transcribe": {"checks": {"speech": None}}}).transcribe
    (said,) = Parrot(unchecked, "thank you for watching").run([{"utterance_id": "still", "waveform": samples}])
    assert said["text"] == "thank you for watching"


@pytest.mark.parametrize("kind", ["pocketsphinx", "moonshine"])
def test_real_recognisers_write_nothing_for_noise_between_clips_with_words(kind, configure, spoken):
    still = {"utterance_id": "still", "waveform": silences()["loud noise"].astype(np.float32)}
    stage = build_transcribe(configure({"transcribe": {"kind": kind}}).transcribe)
    first, middle, last = stage.run([spoken[0], still, spoken[1]])
    assert middle.kind == "empty_transcript"
    assert [first, last] == stage.run(spoken[:2])


def test_every_voice_counts_as_speech(configure, spoken):
    config = configure().transcribe.checks
    assert all(has_speech(row["waveform"], config) for row in spoken)


@pytest.mark.parametrize("corpus", ["ravdess", "emodb"])
def test_shouts_and_whispers_count_as_speech(corpus, configure, real_clips):
    config = configure().transcribe.checks
    paths = [
        path for number, path in enumerate(real_clips(corpus)) if number % 4 == 0 or path.parent.name == "Actor_06"
    ]
    clips = {path.name: soundfile.read(path, dtype="float32")[0] for path in paths}
    assert [name for name, samples in clips.items() if not has_speech(samples, config)] == []


@pytest.mark.parametrize(
    ("text", "times", "group"),
    [
        ("no no no stop", 3, "no"),
        ("i know that i know that i know that you", 3, "i know that"),
        ("a rose is a rose is a rose", 2, "a rose is"),
        ("all different words here", 1, ""),
        ("", 1, ""),
    ],
)
def test_repeats_are_counted_by_the_longest_run_of_the_same_words(text, times, group):
    assert longest_repeat(text.split()) == (times, group.split() or ())


@pytest.mark.parametrize(
    "text",
    [
        "no " * 9,
        "you know " * 9,
        "Thank you for watching this video today. " * 5,
        "ご視聴ありがとうございました" * 6,
    ],
)
def test_a_text_that_repeats_itself_is_refused_by_kind(text, configure, spoken):
    parrot = Parrot(configure().transcribe, text)
    assert [outcome.kind for outcome in parrot.run(spoken[:2])] == ["repetitive_transcript"] * 2
    free = configure({"transcribe": {"checks": {"max_repeats": None, "max_compression": None}}}).transcribe
    assert Parrot(free, text).run(spoken[:1])[0]["text"] == " ".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "no no no no no, please don't",
        "It was the best of times, it was the worst of times. It was the age of wisdom, it was the age of foolishness.",
        "Kids are talking by the door.",
        "ha ha ha ha ha ha ha ha",
    ],
)
def test_what_people_say_is_not_refused(text, configure):
    assert refuse_repeats(text, configure().transcribe.checks, "clip") is None


def test_only_times_that_can_be_are_kept():
    spans = [
        ("one", 0.1, 0.3),
        ("two", float("nan"), 0.4),
        ("three", 0.2, float("inf")),
        ("four", 0.05, 0.2),
        ("five", 0.3, 0.25),
        ("six", 0.9, 1.2),
        ("seven", 1.1, 1.3),
        ("eight", -0.1, 0.2),
        ("nine", None, None),
    ]
    words = possible_times(spans, duration_s=1.0)
    assert [(word["word"], word["start_s"], word["end_s"]) for word in words] == [
        ("one", 0.1, 0.3),
        ("two", None, None),
        ("three", None, None),
        ("four", None, None),
        ("five", None, None),
        ("six", 0.9, 1.0),
        ("seven", None, None),
        ("eight", None, None),
        ("nine", None, None),
    ]
