"""Degradations: noise of the size asked for, codecs that keep length and speech, speed as a tape's."""

from __future__ import annotations

import numpy as np
import pytest
from error_kit import of_kind
from scoring_kit import speech

from emoray.audio.degrade import CODECS, add_noise, at_speed, through_codec
from emoray.audio.io import AUDIO_HZ
from emoray.errors import InputError


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0])
def test_noise_has_the_power_that_the_ratio_says(snr_db):
    clip = speech(2.0, 120.0, seed=0)
    noise = add_noise(clip, snr_db, np.random.default_rng(0)).astype(np.float64) - clip
    assert 10 * np.log10(np.mean(clip.astype(np.float64) ** 2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.2)


def test_silence_stays_silent():
    assert not add_noise(np.zeros(1000, np.float32), 0.0, np.random.default_rng(0)).any()
    assert not at_speed(np.zeros(1000, np.float32), 1.25).any()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("gain", [0.3, 1.5])
def test_codecs_keep_length_and_most_of_the_sound(codec, gain):
    clip = (speech(1.51, 120.0, seed=1) * gain).astype(np.float32)
    back = through_codec(clip, codec)
    assert back.shape == clip.shape
    assert back.dtype == np.float32
    assert not np.array_equal(back, clip)
    assert np.corrcoef(back, clip)[0, 1] > 0.8


def test_unknown_codec():
    with pytest.raises(InputError, check=of_kind("unknown_codec")):
        through_codec(np.zeros(100, np.float32), "cassette")


def test_faster_is_shorter_and_higher():
    seconds, hz = 2.0, 200.0
    tone = np.sin(2 * np.pi * hz * np.arange(int(seconds * AUDIO_HZ)) / AUDIO_HZ).astype(np.float32)
    fast = at_speed(tone, 1.25)
    assert len(fast) == pytest.approx(len(tone) / 1.25, abs=2)
    spectrum = np.abs(np.fft.rfft(fast))
    assert np.argmax(spectrum) * AUDIO_HZ / len(fast) == pytest.approx(hz * 1.25, rel=0.01)
