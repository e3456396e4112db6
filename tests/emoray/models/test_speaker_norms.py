"""Speaker norms: what is known of a speaker is taken from the sound, and no more than is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_kit import model_config, random_batch

from emoray.errors import ConfigError
from emoray.models.build import MODELS, build
from emoray.models.frontend import clip_measures
from emoray.models.speaker_norms import SpeakerNorms

WIDTH = 4


def _clips(speakers: int, each: int, spread: float) -> tuple[list[np.ndarray], list[str]]:
    """Clips (60, F) whose level differs between speakers by `spread`, and between the clips of one by one."""
    random = np.random.default_rng(0)
    level_S = spread * random.normal(size=speakers)
    clips = [
        (level_S[speaker] + random.normal() + random.normal(size=(60, WIDTH))).astype(np.float32)
        for speaker in range(speakers)
        for _ in range(each)
    ]
    return clips, [f"s{speaker}" for speaker in range(speakers) for _ in range(each)]


def _fitted(clips: list[np.ndarray], speakers: list[str | None]) -> SpeakerNorms:
    norms = SpeakerNorms(WIDTH)
    norms.fit(np.stack([clip_measures(clip) for clip in clips]), speakers)
    return norms


def test_before_fit_it_changes_nothing():
    batch = random_batch(5, WIDTH)
    torch.testing.assert_close(SpeakerNorms(WIDTH)(batch).features_BTF, batch.features_BTF)


def test_variances_are_those_between_and_within_speakers():
    norms = _fitted(*_clips(400, 8, spread=3.0))
    assert norms.between_M[:WIDTH].numpy() == pytest.approx(9.0, rel=0.15)
    assert norms.within_M[:WIDTH].numpy() == pytest.approx(1.0, rel=0.15)
    none = _fitted(*_clips(400, 8, spread=0.0))
    assert none.between_M[:WIDTH].numpy() == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("clips_known", [0, 2, 20])
def test_a_speaker_counts_as_much_as_is_known(clips_known):
    clips, speakers = _clips(40, 25, spread=3.0)
    norms = _fitted(clips, speakers)
    own_M = torch.from_numpy(np.mean([clip_measures(clip) for clip in clips[1:21]], axis=0))
    batch = random_batch(2, WIDTH)
    known = replace(batch, speaker_BM=own_M.expand(2, -1), enrolled_B=torch.full((2,), float(clips_known)))
    weight_M = clips_known * norms.between_M / (clips_known * norms.between_M + norms.within_M)
    usual_M = norms.mean_M + weight_M * (own_M - norms.mean_M)
    expected = (batch.features_BTF - usual_M[:WIDTH]) / usual_M[WIDTH:].exp()
    for clip, length in enumerate(batch.lengths_B):
        torch.testing.assert_close(norms(known).features_BTF[clip, :length], expected[clip, :length])
        assert not norms(known).features_BTF[clip, length:].any()
    assert (weight_M[:WIDTH] > 0.9).all() == (clips_known > 0)


def test_without_known_speakers_a_clip_counts_as_much_as_the_corpus():
    clips, _ = _clips(10, 3, spread=1.0)
    norms = _fitted(clips, [None] * len(clips))
    torch.testing.assert_close(norms.between_M, norms.within_M)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"wav2vec2_dim"}))
def test_every_model_can_measure_against_speakers(name):
    kind = "cnn14" if name in ("cnn14", "multistage", "single_stage") else "logmel"
    config = model_config(name=name, classes=["low", "high"], encoder={"kind": kind, "speaker_norms": True})
    torch.manual_seed(0)
    model = build(config).eval()
    assert "speaker_norms.mean_M" in model.state_dict()
    features = len(model.speaker_norms.mean_M) // 2
    batch = random_batch(4, features, frames=(40, 60))
    torch.testing.assert_close(model(batch).prediction_B3, model.forward(batch).prediction_B3)
    model.speaker_norms.between_M.fill_(1.0)
    known = replace(batch, speaker_BM=torch.full((4, 2 * features), 0.3), enrolled_B=torch.full((4,), 5.0))
    assert torch.isfinite(model(known).prediction_B3).all()


def test_a_waveform_has_nothing_to_measure():
    config = model_config(name="mean", encoder={"kind": "ssl", "speaker_norms": True})
    with pytest.raises(ConfigError, match="waveform"):
        build(config)
