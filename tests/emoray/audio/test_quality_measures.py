"""Measures of quality against what the standards and arithmetic say."""

from __future__ import annotations

import numpy as np
import pytest

from emoray.audio.quality import flat_top_fraction, loudness_lufs, snr_db

HZ = 16_000
FRAME = 512


def tone(seconds: float, amplitude: float, frequency_hz: float = 997.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * HZ)) / HZ)).astype(np.float32)


@pytest.mark.parametrize("amplitude", [1.0, 0.1, 0.01])
def test_loudness_of_a_tone(amplitude):
    # BS.1770-4: a 997 Hz sine at full scale in one front channel reads −3.01 LKFS.
    assert loudness_lufs(tone(3, amplitude)) == pytest.approx(-3.01 + 20 * np.log10(amplitude), abs=0.1)


def test_silence_is_gated_out_of_loudness():
    loud_S, quiet_S = tone(4, 0.1), np.zeros(8 * HZ, np.float32)
    alone = loudness_lufs(loud_S)
    assert alone is not None
    assert loudness_lufs(np.concatenate([quiet_S, loud_S, quiet_S])) == pytest.approx(alone, abs=0.5)
    # BS.1770's own check of the frequency weighting: low tones count for less.
    assert loudness_lufs(tone(3, 0.1, 50.0)) < alone - 3


def test_where_the_standard_defines_no_loudness():
    assert loudness_lufs(tone(0.39, 0.5)) is None
    assert loudness_lufs(tone(0.41, 0.5)) is not None
    assert loudness_lufs(np.zeros(HZ, np.float32)) is None


def test_flattened_tops():
    noise_S = np.random.default_rng(0).standard_normal(4 * HZ).astype(np.float32)
    assert flat_top_fraction(noise_S) == 0.0
    assert flat_top_fraction(np.zeros(HZ, np.float32)) == 0.0
    assert flat_top_fraction(np.zeros(0, np.float32)) == 0.0
    # A sine clipped at half its height spends 2/3 of its time at the two flat tops: |sin| > 1/2.
    clipped_S = np.clip(tone(2, 1.0, 100.0), -0.5, 0.5)
    assert flat_top_fraction(clipped_S) == pytest.approx(2 / 3, abs=0.02)
    assert flat_top_fraction(0.2 * clipped_S) == flat_top_fraction(clipped_S)  # turned down afterwards


@pytest.mark.parametrize("wanted_db", [0.0, 10.0, 30.0])
def test_signal_to_noise_is_that_of_the_mix(wanted_db):
    is_speech_N = np.zeros(200, bool)
    is_speech_N[50:150] = True
    random = np.random.default_rng(0)
    noise_S = 0.01 * random.standard_normal(200 * FRAME)
    voice_S = tone(200 * FRAME / HZ, 0.01 * np.sqrt(2) * 10 ** (wanted_db / 20)) * np.repeat(is_speech_N, FRAME)
    assert snr_db((noise_S + voice_S).astype(np.float32), is_speech_N) == pytest.approx(wanted_db, abs=0.3)


def test_no_figure_without_speech_or_without_silence():
    noise_S = np.random.default_rng(0).standard_normal(100 * FRAME).astype(np.float32)
    assert snr_db(noise_S, np.zeros(100, bool)) is None
    assert snr_db(noise_S, np.ones(100, bool)) is None
    assert snr_db(noise_S, np.arange(100) >= 4) is None  # two of the four silent frames are next to speech
    assert snr_db(noise_S, np.arange(100) >= 5) is not None
    assert snr_db(noise_S[: 2 * FRAME], np.array([False, True])) is None


def test_digital_silence_has_a_finite_ratio():
    is_speech_N = np.arange(100) >= 50
    samples_S = tone(100 * FRAME / HZ, 0.1) * np.repeat(is_speech_N, FRAME)
    # −23 dBFS of speech over the floor of −100 dBFS.
    assert snr_db(samples_S.astype(np.float32), is_speech_N) == pytest.approx(77, abs=0.1)
