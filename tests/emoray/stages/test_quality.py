"""The quality stage on synthesised speech: noise that is added is noise that is found, whoever the neighbours are."""

from __future__ import annotations

import numpy as np
import pytest

from emoray.stages.fingerprint import fingerprint
from emoray.stages.quality import MeasureQuality


@pytest.fixture(scope="module")
def stage(config):
    return MeasureQuality(config.quality)


@pytest.fixture
def clips(spoken):
    """Speech with half a second of silence before and after it, and its level: (samples, power of the clip)."""
    quiet_S = np.zeros(8000, np.float32)
    return [np.concatenate([quiet_S, row["waveform"], quiet_S]) for row in spoken[:4]]


def measured(stage, clips):
    return stage.run([{"utterance_id": str(number), "waveform": clip} for number, clip in enumerate(clips)])


def test_added_noise_is_found(stage, clips):
    random = np.random.default_rng(0)
    found = []
    for wanted_db in (20.0, 10.0):
        noisy = []
        for samples_S in clips:
            speech_S = samples_S[8000:-8000]
            scale = np.sqrt(np.mean(speech_S**2) / 10 ** (wanted_db / 10))
            noisy.append((samples_S + scale * random.standard_normal(len(samples_S))).astype(np.float32))
        found.append([value["snr_db"] for value in measured(stage, noisy)])
    # Pauses inside the clip are no speech, so that the speech alone is a little above the clip's own level.
    np.testing.assert_allclose(found[0], 20.0, atol=2.5)
    np.testing.assert_allclose(np.subtract(found[0], found[1]), 10.0, atol=1.0)


def test_speech_is_about_as_long_as_the_words(stage, clips):
    for samples_S, value in zip(clips, measured(stage, clips), strict=True):
        spoken_s = len(samples_S) / 16_000 - 1.0
        assert 0.6 * spoken_s < value["speech_s"] < spoken_s + 0.3
        assert value["speech_fraction"] == pytest.approx(value["speech_s"] / (spoken_s + 1.0))


def test_neighbours_change_nothing(stage, clips):
    together = measured(stage, clips)
    assert [measured(stage, [clip])[0] for clip in clips] == together
    assert measured(stage, clips[::-1])[::-1] == together


def test_what_is_enabled_is_no_matter_for_the_fingerprint(stage, config):
    other = config.quality.model_copy(update={"enabled": True})
    assert fingerprint(MeasureQuality(other), {}) == fingerprint(stage, {})
    stricter = config.quality.activity.model_copy(update={"enter": 0.6})
    other = config.quality.model_copy(update={"activity": stricter})
    assert fingerprint(MeasureQuality(other), {}) != fingerprint(stage, {})
