import numpy as np
import pytest

from emoray.audio import ProsodyConfig, measure

CONFIG = ProsodyConfig(hop_s=0.01, f0_floor_hz=60, f0_ceiling_hz=500)


def voice(f0_hz, seconds, amplitude=0.3):
    """Harmonics that fall off by 6 dB per octave, as a glottal source does."""
    f0 = np.broadcast_to(f0_hz, round(seconds * 16000))
    phase = 2 * np.pi * np.cumsum(f0) / 16000
    wave = sum(np.sin(order * phase) / order for order in range(1, 11))
    return (amplitude * wave / np.abs(wave).max()).astype(np.float32)


@pytest.mark.parametrize("f0_hz", [75.0, 120.0, 220.0, 400.0])
def test_f0_of_a_steady_voice(f0_hz):
    prosody = measure(voice(f0_hz, 1.0), CONFIG)
    assert prosody.f0_hz.dtype == np.float32
    voiced = prosody.f0_hz[prosody.f0_hz > 0]
    assert len(voiced) > 80
    assert np.median(voiced) == pytest.approx(f0_hz, rel=0.005)


def test_f0_follows_a_glide():
    glide = np.linspace(100, 200, 32000)
    prosody = measure(voice(glide, 2.0), CONFIG)
    frames = np.arange(20, 180)
    np.testing.assert_allclose(prosody.f0_hz[frames], 100 + 50 * frames * 0.01, rtol=0.02)


def test_frames_and_hop():
    for samples in (1600, 16000, 16001, 24321):
        prosody = measure(voice(150, samples / 16000), CONFIG)
        assert len(prosody.f0_hz) == len(prosody.energy_db) == samples // 160 + 1
    coarse = measure(voice(150, 1.0), ProsodyConfig(hop_s=0.02, f0_floor_hz=60, f0_ceiling_hz=500))
    assert (len(coarse.f0_hz), coarse.hop_s) == (51, 0.02)


def test_noise_and_silence_are_unvoiced():
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert (measure(noise, CONFIG).f0_hz > 0).mean() < 0.1
    quiet = np.concatenate([voice(150, 0.5), np.zeros(8000, np.float32)])
    prosody = measure(quiet, CONFIG)
    assert not prosody.f0_hz[60:].any()
    assert prosody.energy_db[60:].max() == -100


def test_energy_in_decibels():
    sine = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000).astype(np.float32)
    loud = measure(0.5 * sine, CONFIG).energy_db
    soft = measure(0.05 * sine, CONFIG).energy_db
    # RMS of a sine of amplitude one half: -9.03 dBFS; a tenth of it is 20 dB less. The windows hold whole periods.
    np.testing.assert_allclose(loud[5:-5], -9.03, atol=0.1)
    np.testing.assert_allclose(loud[5:-5] - soft[5:-5], 20.0, atol=1e-3)


def test_a_stretch_an_octave_off_counts_as_unvoiced():
    clip = np.concatenate(
        [voice(140, 1.0), np.zeros(1600, np.float32), voice(420, 0.15), np.zeros(1600, np.float32), voice(140, 1.0)]
    )
    f0 = measure(clip, CONFIG).f0_hz
    assert f0.max() < 200
    assert (f0[:100] > 0).mean() > 0.9
