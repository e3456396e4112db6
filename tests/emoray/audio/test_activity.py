"""Voice activity: our way to run the network against the archive's own, and cutting against runs drawn by hand."""

from __future__ import annotations

import os
import warnings
from importlib import util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emoray.audio.activity import FRAME_S, ActivityConfig, Span, speech_frames, utterances
from emoray.audio.silero import FRAME_SAMPLES, SpeechDetector

ACTIVITY = ActivityConfig(enter=0.5, leave=0.35, min_silence_s=3 * FRAME_S, min_speech_s=2 * FRAME_S)


def archive():
    folder = os.path.dirname(util.find_spec("silero_vad").origin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(os.path.join(folder, "data", "silero_vad.jit")).eval()


@pytest.fixture(scope="module")
def sound():
    """Two seconds of noise that swells and falls, with a buzz in it."""
    times_S = np.arange(2 * 16_000) / 16_000
    noise_S = np.random.default_rng(0).standard_normal(len(times_S))
    buzz_S = sum(np.sin(2 * np.pi * 130 * k * times_S) / k for k in range(1, 12))
    return ((0.02 * noise_S + 0.1 * buzz_S) * np.sin(np.pi * times_S) ** 2).astype(np.float32)


def test_the_archive_says_the_same_frame_by_frame(sound):
    reference = archive()
    with torch.inference_mode():
        frames = torch.from_numpy(sound[: len(sound) // FRAME_SAMPLES * FRAME_SAMPLES]).split(FRAME_SAMPLES)
        expected = [reference(frame[None], 16_000).item() for frame in frames]
    found = SpeechDetector().probabilities(sound)
    assert np.ptp(expected) > 0.05, "a constant would prove nothing"
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5)
    assert len(found) == len(expected) + 1  # the last, cut short, is filled with silence


def test_stretch_by_stretch_is_as_in_one_go(sound):
    detector = SpeechDetector()
    parts = [detector.probabilities(sound[start : start + 3 * 512]) for start in range(0, len(sound), 3 * 512)]
    np.testing.assert_allclose(np.concatenate(parts), SpeechDetector().probabilities(sound), atol=1e-5)
    assert SpeechDetector().probabilities(sound[:0]).shape == (0,)


def frames(text: str) -> np.ndarray:
    """`#` speech, `.` silence, `~` between the two thresholds."""
    return np.array([{"#": 0.9, ".": 0.1, "~": 0.4}[sign] for sign in text], np.float32)


@pytest.mark.parametrize(
    ("heard", "speech"),
    [
        ("..##..", "..##.."),
        ("~~##~~..", "..####.."),  # in between, a frame is what the one before it was
        ("##..##...##", "######...##"),  # a gap of two frames is closed, one of three is not
        ("..#....##", ".......##"),  # one frame of speech is a noise
        ("#.#....", "###...."),  # closed first, then long enough
        ("..", ".."),
        ("", ""),
    ],
)
def test_which_frames_are_speech(heard, speech):
    assert "".join("#" if one else "." for one in speech_frames(frames(heard), ACTIVITY)) == speech


def cut(heard: str, *, pad: float = 0.0, most: float = 100.0, duration: float | None = None) -> list[Span]:
    """Utterances in frames."""
    spans = utterances(
        frames(heard),
        ACTIVITY,
        duration_s=FRAME_S * (len(heard) if duration is None else duration),
        pad_s=pad * FRAME_S,
        max_utterance_s=most * FRAME_S,
    )
    return [Span(round(span.start_s / FRAME_S, 6), round(span.end_s / FRAME_S, 6)) for span in spans]


def test_utterances_and_their_padding():
    assert cut("..###....##.") == [Span(2, 5), Span(9, 11)]
    assert cut("..###....##.", pad=1) == [Span(1, 6), Span(8, 12)]
    assert cut("..###....##.", pad=3) == [Span(0, 7), Span(7, 12)]  # the gap of four is shared
    assert cut("..###", pad=3, duration=4.5) == [Span(0, 4.5)]  # the recording ends within the last frame
    assert cut("......") == []


def test_long_speech_is_parted_where_it_is_least_likely():
    heard = frames("#" * 12)
    heard[4] = 0.6
    heard[9] = 0.7
    spans = utterances(heard, ACTIVITY, duration_s=12 * FRAME_S, pad_s=0.0, max_utterance_s=6.5 * FRAME_S)
    assert [(round(s.start_s / FRAME_S), round(s.end_s / FRAME_S)) for s in spans] == [(0, 5), (5, 10), (10, 12)]


@given(
    st.lists(st.floats(0, 1, width=32), max_size=200),
    st.floats(0, 0.3),
    st.floats(0.8, 5),
)
def test_no_utterance_overlaps_another_or_is_too_long(heard, pad_s, most_s):
    duration_s = len(heard) * FRAME_S
    spans = utterances(
        np.array(heard, np.float32), ACTIVITY, duration_s=duration_s, pad_s=pad_s, max_utterance_s=most_s
    )
    edges = [edge for span in spans for edge in (span.start_s, span.end_s)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= duration_s + 1e-9 for edge in edges)
    assert all(0 < span.end_s - span.start_s <= most_s + 1e-9 for span in spans)
    inside = np.zeros(len(heard), bool)
    for span in spans:
        inside[round(span.start_s // FRAME_S) : round(-(-span.end_s // FRAME_S))] = True
    assert inside[speech_frames(np.array(heard, np.float32), ACTIVITY)].all()
