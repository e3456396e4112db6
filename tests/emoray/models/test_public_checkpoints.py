"""Public checkpoints against their published forward passes, worked out here from their own weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from error_kit import of_kind
from public_checkpoints_kit import DEVIATION, LARGE, MEAN, SMALL, write_odyssey, write_wav2vec2_dim
from torch.nn.functional import layer_norm, linear
from training_kit import model_config
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

from emoray.errors import ConfigError
from emoray.models.batch import Batch
from emoray.models.build import frontend
from emoray.models.public_checkpoints import read_checkpoint

TO_VAD = [2, 0, 1]  # the checkpoints give arousal, dominance, valence
CLIPS = [np.random.default_rng(seed).normal(0, 0.1, size).astype(np.float32) for seed, size in ((1, 9000), (2, 16000))]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def score(read, clips):
    """Our model on clips, padded together."""
    features = [frontend(read.config.encoder).features(clip) for clip in clips]
    lengths = torch.tensor([len(one) for one in features])
    padded = torch.zeros(len(clips), int(lengths.max()), 1)
    for row, one in zip(padded, features, strict=True):
        row[: len(one)] = torch.from_numpy(one)
    nothing = torch.zeros(len(clips), 3, read.config.text_width)
    batch = Batch(
        features_BTF=padded,
        lengths_B=lengths,
        text_BKE=nothing,
        present_BK=torch.zeros(len(clips), 3, dtype=torch.bool),
        target_B3=torch.full((len(clips), 3), torch.nan),
        label_B=torch.full((len(clips),), -1),
        utterance_ids=tuple(map(str, range(len(clips)))),
    )
    with torch.inference_mode():
        return read.model(batch).prediction_B3


def encoder(kind, config, state, prefix, changes):
    """The published encoder with the checkpoint's weights, loaded by transformers and not by us."""
    old = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    own = {}
    for name, value in state.items():
        if name.startswith(prefix):
            stem, _, end = name.removeprefix(prefix).rpartition(".")
            own[f"{stem}.{old.get(end, end)}".removeprefix(".")] = value
    model = kind(config(**{**LARGE, **changes})).eval()
    model.load_state_dict(own)
    return model


@pytest.mark.parametrize("pickled", [False, True])
def test_wav2vec2_dim_scores_as_published(tmp_path, pickled):
    state = write_wav2vec2_dim(tmp_path / "hub", pickled=pickled, **SMALL)
    read = read_checkpoint(tmp_path / "hub", model_config(), name="audeering/one")
    assert (read.outputs, read.licence) == (("arousal", "dominance", "valence"), "cc-by-nc-sa-4.0")
    network = encoder(Wav2Vec2Model, Wav2Vec2Config, state, "wav2vec2.", {**SMALL, "conv_bias": True})
    expected = []
    for clip in CLIPS:
        sound = torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7))[None]
        with torch.inference_mode():
            pooled = network(sound).last_hidden_state.mean(1)
            hidden = torch.tanh(linear(pooled, state["classifier.dense.weight"], state["classifier.dense.bias"]))
            out = linear(hidden, state["classifier.out_proj.weight"], state["classifier.out_proj.bias"])
        expected.append(out[0, TO_VAD])
    torch.testing.assert_close(score(read, CLIPS), torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pickled", [False, True])
def test_odyssey_scores_as_published(tmp_path, pickled):
    state, wavlm = write_odyssey(tmp_path / "hub", pickled=pickled, **SMALL)
    read = read_checkpoint(tmp_path / "hub", model_config(), name="3loi/one", encoder=str(wavlm))
    assert (read.outputs, read.licence) == (("arousal", "dominance", "valence"), "mit")
    network = encoder(WavLMModel, WavLMConfig, state, "ssl_model.", {**SMALL, "conv_bias": False})
    expected = []
    for clip in CLIPS:
        sound = torch.from_numpy((clip - MEAN) / (DEVIATION + 1e-6)).float()[None]
        with torch.inference_mode():
            frames = network(sound).last_hidden_state[0]
            gate = torch.tanh(frames @ state["pool_model.sap_linear.weight"].T + state["pool_model.sap_linear.bias"])
            weight = (gate @ state["pool_model.attention"]).softmax(0)
            mean = (weight * frames).sum(0)
            deviation = ((weight * frames**2).sum(0) - mean**2).clamp_min(1e-5).sqrt()
            first = linear(
                torch.cat([mean, deviation]), state["ser_model.fc.0.0.weight"], state["ser_model.fc.0.0.bias"]
            )
            norm = layer_norm(first, first.shape, state["ser_model.fc.0.1.weight"], state["ser_model.fc.0.1.bias"])
            out = linear(norm.relu(), state["ser_model.out.0.weight"], state["ser_model.out.0.bias"])
        expected.append(out[TO_VAD])
    torch.testing.assert_close(score(read, CLIPS), torch.stack(expected), atol=1e-4, rtol=0)


def test_outputs_in_another_order_are_put_into_ours(tmp_path):
    write_wav2vec2_dim(tmp_path / "hub", **SMALL)
    before = score(read_checkpoint(tmp_path / "hub", model_config(), name="one"), CLIPS)
    path = tmp_path / "hub" / "config.json"
    settings = json.loads(path.read_text())
    settings["id2label"] = {"0": "Valence", "1": "Arousal", "2": "Dominance"}
    path.write_text(json.dumps(settings))
    after = score(read_checkpoint(tmp_path / "hub", model_config(), name="one"), CLIPS)
    # Rows of the last layer keep their place and change their names: A, D, V are called V, A, D now.
    torch.testing.assert_close(after, before[:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"text"), r"model\.safetensors"),
        (lambda folder: change(folder, id2label={"0": "angry", "1": "happy"}), "id2label.*angry, happy"),
        (lambda folder: change(folder, id2label={}), "id2label"),
        (lambda folder: change(folder, num_hidden_layers=3), r"layers\.2.* missing"),
        (lambda folder: change(folder, num_hidden_layers=1), r"layers\.1.* unknown"),
        (lambda folder: change(folder, intermediate_size=64), "intermediate_dense"),
        (lambda folder: change(folder, pooling_mode="max"), "max"),
    ],
)
def test_what_is_no_such_checkpoint_is_refused_with_the_reason(tmp_path, harm, named):
    write_wav2vec2_dim(tmp_path / "hub", **SMALL)
    harm(tmp_path / "hub")
    with pytest.raises(ConfigError, match=named, check=of_kind("unknown_checkpoint")):
        read_checkpoint(tmp_path / "hub", model_config(), name="one")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    write_wav2vec2_dim(tmp_path / "hub", **SMALL)
    (tmp_path / "hub" / "model.safetensors").unlink()
    mark = tmp_path / "was-run"
    torch.save({"classifier.dense.weight": Harm(str(mark))}, tmp_path / "hub" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin", check=of_kind("unknown_checkpoint")):
        read_checkpoint(tmp_path / "hub", model_config(), name="one")
    assert not mark.exists()


def test_an_encoder_whose_configuration_is_elsewhere_has_to_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_odyssey(tmp_path / "hub", **SMALL)
    with pytest.raises(ConfigError, match="--encoder FOLDER"):
        read_checkpoint(tmp_path / "hub", model_config(), name="one", encoder=str(tmp_path / "nothing"))


def test_without_a_card_no_licence_is_claimed(tmp_path):
    write_wav2vec2_dim(tmp_path / "hub", **SMALL)
    (tmp_path / "hub" / "README.md").write_text("# No front matter\n")
    assert read_checkpoint(tmp_path / "hub", model_config(), name="one").licence is None


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


class Harm:
    """Writes a file when it is unpickled by a loader that runs what it is told."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))
