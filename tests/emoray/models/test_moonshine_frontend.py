"""Moonshine's frozen encoder as a front-end: frames, scale, log-mels at the same times, one file per version."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import soundfile
import soxr
from training_kit import model_config

from emoray.audio import moonshine
from emoray.audio.io import AUDIO_HZ
from emoray.errors import ConfigError
from emoray.models.build import frontend, portable


def front(kind="moonshine", **options):
    return frontend(model_config(encoder={"kind": kind, "moonshine": options}).encoder)


@pytest.fixture(scope="module")
def voice():
    """Five seconds of a real voice that the package carries."""
    path = moonshine.model_folder().parent / "beckett.wav"
    if not path.is_file():
        pytest.skip("this version of moonshine-voice carries no beckett.wav")
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, AUDIO_HZ).astype(np.float32)[: 5 * AUDIO_HZ]


def test_a_frame_every_48_ms_at_about_unit_variance(voice):
    features = front().features(voice)
    assert features.dtype == np.float32
    assert features.shape[1] == front().width == 576
    assert len(features) / 5 == pytest.approx(front().frame_hz, abs=0.5)
    assert features.std() == pytest.approx(1, abs=0.1)
    assert np.array_equal(features, pickle.loads(pickle.dumps(front())).features(voice))


def test_log_mels_stand_at_the_times_of_the_states(voice):
    """A tone in the second half of the clip is in the log-mels of the second half, and in no other."""
    quiet = 0.001 * voice
    quiet[len(quiet) // 2 :] += 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(quiet) - len(quiet) // 2) / AUDIO_HZ)
    both = front("moonshine_logmel")
    features = both.features(quiet.astype(np.float32))
    assert features.shape[1] == both.width == 576 + both.mels
    assert np.array_equal(features[:, :576], front().features(quiet.astype(np.float32)))
    mels = features[:, 576:]
    peak = mels[-10:].mean(0).argmax()
    middle = len(mels) // 2
    assert mels[middle + 2 :, peak].min() > mels[: middle - 2, peak].max() + 1
    alone = frontend(model_config().encoder).features(quiet.astype(np.float32))
    assert mels.mean(0) == pytest.approx(alone.mean(0), abs=0.05)


@pytest.mark.parametrize("kind", ["moonshine", "moonshine_logmel"])
def test_the_shortest_and_the_longest_clips(kind, voice):
    assert len(front(kind).features(voice[:160])) >= 1
    long = front(kind).features(np.tile(voice, 7))
    assert len(long) / 35 == pytest.approx(front().frame_hz, abs=0.5)
    assert np.isfinite(long).all()


def test_a_saved_model_is_not_scored_with_another_encoder():
    kept = portable(model_config(encoder={"kind": "moonshine"})).encoder
    assert kept.moonshine.revision == front().revision
    assert frontend(kept).options() == front().options()
    with pytest.raises(ConfigError, match="0123456789abcdef"):
        front(revision="0123456789abcdef")
