"""Whisper in vLLM on a tiny checkpoint: it hears what transformers hears, in any order and of any length."""

from __future__ import annotations

import numpy as np
import pytest

from emoray.errors import ConfigError, StageError
from emoray.stages.transcribe.pieces import cut_into_pieces
from emoray.stages.transcribe.stage import build_transcribe
from emoray.stages.transcribe.whisper_vllm import WINDOW_S


@pytest.fixture(scope="session")
def settings(configure, tiny, vllm_engine):
    """Both Whispers over one checkpoint, which writes no timestamps."""

    def transcribe(kind, **changes):
        model = tiny("whisper", timed=False)
        whisper = {"model": model, "language": "en", "device": "cpu"}
        in_vllm = {"model": model, "language": "en", "times": "none", "vllm": {"load_timeout_s": 600}, **changes}
        unchecked = {"max_repeats": None, "max_compression": None}  # random weights repeat themselves
        sections = {"whisper": whisper, "whisper_vllm": in_vllm, "checks": unchecked}
        return configure({"transcribe": {"kind": kind, **sections}}).transcribe

    return transcribe


def test_it_hears_what_transformers_hears_whatever_the_order(settings, spoken):
    rows = spoken[:5]
    ours = build_transcribe(settings("whisper_vllm")).run(rows)
    theirs = build_transcribe(settings("whisper")).run(rows)
    assert [value["text"] for value in ours] == [value["text"] for value in theirs]
    assert len({value["text"] for value in ours}) > 1
    assert build_transcribe(settings("whisper_vllm")).run(rows[::-1]) == ours[::-1]
    assert all(value["times"] == "none" and value["words"][0]["start_s"] is None for value in ours)


def test_the_language_is_detected_or_given(settings, spoken):
    heard = build_transcribe(settings("whisper_vllm", language=None)).run(spoken[:3])
    theirs = build_transcribe(
        settings("whisper").model_copy(
            update={"whisper": settings("whisper").whisper.model_copy(update={"language": None})}
        )
    ).run(spoken[:3])
    assert [value["language"] for value in heard] == [value["language"] for value in theirs]
    with pytest.raises(ConfigError, match="de, en"):
        build_transcribe(settings("whisper_vllm", language="xx")).run(spoken[:1])


def test_words_that_do_not_fit_the_sound_get_no_times(settings, spoken):
    (loose,) = build_transcribe(settings("whisper_vllm", times="auto")).run(spoken[:1])
    assert loose["times"] == "none"
    (strict,) = build_transcribe(settings("whisper_vllm", times="aligned")).run(spoken[:1])
    assert isinstance(strict, StageError)
    assert strict.kind in ("alignment_mismatch", "unknown_word")


def test_a_clip_longer_than_the_window_is_heard_in_pieces(settings, spoken):
    long = {**spoken[0], "waveform": np.tile(spoken[0]["waveform"], 30)[: 35 * 16_000]}
    stage = build_transcribe(settings("whisper_vllm"))
    short, both = stage.run([spoken[1], long])
    assert short == stage.run([spoken[1]])[0]
    first = next(iter(cut_into_pieces(long["waveform"], WINDOW_S)))
    assert len(both["text"]) > len(stage.run([{**long, "waveform": first}])[0]["text"])


def test_pieces_are_cut_in_the_quiet_and_nothing_is_lost():
    samples = np.ones(70 * 16_000, np.float32)
    samples[27 * 16_000 : 27 * 16_000 + 1600] = 0.0
    pieces = list(cut_into_pieces(samples, WINDOW_S))
    assert np.array_equal(np.concatenate(pieces), samples)
    assert all(0 < len(piece) <= WINDOW_S * 16_000 for piece in pieces)
    assert 27 * 16_000 <= len(pieces[0]) <= 27 * 16_000 + 1600
