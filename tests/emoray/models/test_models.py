"""What holds for every model: padding, batch order and absent text do not change an output."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_kit import NO_DROPOUT, TEXT_WIDTH, model_config, random_batch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model, WavLMConfig, WavLMModel

from emoray.config import merge
from emoray.errors import ConfigError, MissingExtraError
from emoray.models.batch import Batch
from emoray.models.build import MODELS, build, frontend, portable
from emoray.models.encoders import pretrained_parameters
from emoray.models.heads import feature_width

TOLERANCE = 1e-5
FUSIONS = [
    {"kind": "fm_moe", "gate": "vector", "moe": {"routing": "dense"}},
    {"kind": "fm_moe", "gate": "softmax", "moe": {"routing": "top2", "router": "shared"}},
    {"kind": "concat_mlp"},
    {"kind": "cross_attention"},
]
CNN14 = {"kind": "cnn14"}
MOONSHINE = {"kind": "moonshine_logmel"}
CASES = [
    *({"name": name} for name in ("acoustic", "concat", "text", "late_fusion", "emosphere", "statistics_svm", "mean")),
    *({"name": "msf_ser", "fusion": fusion} for fusion in FUSIONS),
    *({"name": "perspective", "perspective": {"fusion": place}} for place in ("late", "hidden", "early")),
    *({"name": name, "encoder": MOONSHINE} for name in ("acoustic", "emosphere", "challenge", "perspective")),
    *({"name": name, "encoder": CNN14} for name in ("cnn14", "multistage", "single_stage", "late_fusion", "emosphere")),
]
#: Models that hear through an encoder of any kind.
NOT_OVER_ANY = {"cnn14", "multistage", "single_stage", "perspective", "text", "statistics_svm", "mean"}
OVER_ANY_ENCODER = sorted(MODELS.keys() - NOT_OVER_ANY)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """Tiny, randomly initialised speech encoders in Hugging Face layout, of both kinds of front-end."""
    folder = tmp_path_factory.mktemp("encoders")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": (8, 8, 8),
        "conv_kernel": (10, 3, 3),
        "conv_stride": (5, 4, 4),
        "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    }
    torch.manual_seed(0)
    made = {
        "wavlm-group": (WavLMModel, WavLMConfig(**small, feat_extract_norm="group"), False),
        "wavlm-layer": (WavLMModel, WavLMConfig(**small, feat_extract_norm="layer", do_stable_layer_norm=True), True),
        "wav2vec2-group": (Wav2Vec2Model, Wav2Vec2Config(**small, feat_extract_norm="group"), True),
        "wav2vec2-layer": (
            Wav2Vec2Model,
            Wav2Vec2Config(**small, feat_extract_norm="layer", do_stable_layer_norm=True),
            True,
        ),
    }
    for name, (kind, config, normalise) in made.items():
        kind(config).save_pretrained(folder / name)
        Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder / name)
    return {name: str(folder / name) for name in made}


def ssl_encoder(path: str, **changes: object) -> dict[str, object]:
    return {"kind": "ssl", "ssl": {"checkpoint": path, **changes}}


def assert_padding_and_order_do_not_matter(model: torch.nn.Module, batch: Batch) -> None:
    model.eval()
    with torch.inference_mode():
        together = model(batch)
        order = list(reversed(range(len(batch))))
        turned = model(
            Batch(
                **{
                    k: v[order] if isinstance(v, torch.Tensor) else v and tuple(v[i] for i in order)
                    for k, v in vars(batch).items()
                }
            )
        )
        torch.testing.assert_close(turned.prediction_B3, together.prediction_B3[order], atol=TOLERANCE, rtol=0)
        for i in range(len(batch)):
            alone = model(batch.slice(i, i + 1))
            for name in ("prediction_B3", "logits_BC", "gates_BK", "experts_B3E", "regions_BR", "branches_BM3"):
                one, many = getattr(alone, name), getattr(together, name)
                assert (one is None) == (many is None)
                if one is not None:
                    torch.testing.assert_close(one[0], many[i], atol=TOLERANCE, rtol=0)


def case_batch(case: dict) -> Batch:
    """Clips for a case; for CNN14 long enough to be several frames after five poolings."""
    width = feature_width(model_config(**case).encoder)
    return random_batch(7, width, frames=(5, 170)) if case.get("encoder") == CNN14 else random_batch(7, width)


def case_name(case: dict) -> str:
    return "-".join([case["name"], *(part["kind"] for part in (case.get("fusion"), case.get("encoder")) if part)])


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_padding_and_batch_order_do_not_change_an_output(case):
    torch.manual_seed(1)
    model, batch = build(model_config(classes=["a", "b"], **case)), case_batch(case)
    model.train()(batch)  # batch normalisation gets statistics that are not the initial ones
    assert_padding_and_order_do_not_matter(model, batch)


@pytest.mark.parametrize("kind", ["wavlm-group", "wavlm-layer", "wav2vec2-group", "wav2vec2-layer"])
@pytest.mark.parametrize("name", OVER_ANY_ENCODER)
def test_padding_does_not_change_an_output_over_speech_encoders(checkpoints, kind, name):
    torch.manual_seed(1)
    model = build(model_config(name=name, encoder=ssl_encoder(checkpoints[kind])))
    batch = random_batch(5, 1, frames=(2000, 6000))
    assert_padding_and_order_do_not_matter(model, batch)


@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("training", [False, True])
def test_the_tail_of_the_feature_tensor_is_never_read(case, training):
    config = model_config(**merge(NO_DROPOUT, case))
    model, batch = build(config).train(training), case_batch(case)
    dirty = batch.features_BTF.clone()
    for clip, length in enumerate(batch.lengths_B):
        dirty[clip, length:] = 1e3
    with torch.inference_mode():
        torch.testing.assert_close(
            model(replace(batch, features_BTF=dirty)).prediction_B3, model(batch).prediction_B3, atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_what_stands_in_the_place_of_absent_text_is_never_read(case):
    model = build(model_config(**case)).eval()
    batch = case_batch(case)
    with torch.inference_mode():
        for level, there in (("audio", []), ("transcript", [0, 1]), ("full", [0, 1, 2])):
            seen = batch.at_level(level)
            dirty = torch.where(seen.present_BK.unsqueeze(-1), batch.text_BKE, torch.full((7, 3, TEXT_WIDTH), 7.0))
            same = model(replace(seen, text_BKE=dirty))
            assert torch.equal(same.prediction_B3, model(seen).prediction_B3)
            if same.gates_BK is not None:
                absent = [k for k in range(3) if k not in there]
                assert (same.gates_BK[:, absent] == 0).all()


@pytest.mark.parametrize("kind", ["wavlm-group", "wavlm-layer", "wav2vec2-group", "wav2vec2-layer"])
def test_ssl_states_agree_with_the_library(checkpoints, kind):
    """One unpadded clip through transformers' own forward gives the same hidden states."""
    path = checkpoints[kind]
    config = model_config(encoder=ssl_encoder(path)).encoder
    torch.manual_seed(0)
    encoder = build(model_config(encoder=ssl_encoder(path))).sound.encoder.eval()
    samples = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    features = torch.from_numpy(frontend(config).features(samples))[None]
    reference = (WavLMModel if "wavlm" in kind else Wav2Vec2Model).from_pretrained(path).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(path)
    inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        torch.testing.assert_close(features.squeeze(-1), inputs, atol=1e-5, rtol=0)
        states = reference(inputs, output_hidden_states=True)
        expected = [*states.hidden_states[:-1], states.last_hidden_state]
        hidden, mask = encoder(features, torch.tensor([4000]))
    assert bool(mask.all())
    torch.testing.assert_close(hidden, torch.stack(expected).mean(0), atol=TOLERANCE, rtol=0)  # weights begin equal


@pytest.mark.parametrize("tuning", ["frozen", "finetune"])
def test_the_convolutional_front_end_is_always_frozen(checkpoints, tuning):
    model = build(model_config(encoder=ssl_encoder(checkpoints["wavlm-layer"], tuning=tuning)))
    model.train()
    batch = random_batch(3, 1, frames=(2000, 3000))
    model(batch).prediction_B3.square().sum().backward()
    backbone = model.sound.encoder.backbone
    assert all(parameter.grad is None for parameter in backbone.feature_extractor.parameters())
    moved = [parameter for parameter in backbone.encoder.parameters() if parameter.grad is not None]
    assert bool(moved) == (tuning == "finetune")
    assert model.sound.encoder.layer_weight_L.grad is not None
    assert len(list(pretrained_parameters(model.sound.encoder))) == len(list(backbone.parameters()))


def test_a_portable_configuration_needs_no_checkpoint(checkpoints, tmp_path):
    config = model_config(encoder=ssl_encoder(checkpoints["wavlm-group"]))
    kept = portable(config)
    moved = kept.model_copy(
        update={
            "encoder": kept.encoder.model_copy(
                update={"ssl": kept.encoder.ssl.model_copy(update={"checkpoint": str(tmp_path / "gone")})}
            )
        }
    )
    first, second = build(config).eval(), build(type(moved).model_validate_json(moved.model_dump_json())).eval()
    second.load_state_dict(first.state_dict())
    batch = random_batch(3, 1, frames=(2000, 3000))
    with torch.inference_mode():
        assert torch.equal(first(batch).prediction_B3, second(batch).prediction_B3)
    assert frontend(moved.encoder).options() == frontend(config.encoder).options()


def test_a_missing_speech_encoder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        build(model_config(encoder=ssl_encoder(str(tmp_path / "nowhere"))))


def test_lora_without_peft_names_the_extra(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"emoray\[lora\]"):
        build(model_config(encoder=ssl_encoder(checkpoints["wavlm-layer"], tuning="lora")))


def test_adapters_that_would_have_no_effect_are_refused(checkpoints):
    lora = {"target_modules": ["q_proj", "v_proj"]}
    with pytest.raises(ConfigError, match="intermediate_dense"):
        build(model_config(encoder=ssl_encoder(checkpoints["wavlm-layer"], tuning="lora", lora=lora)))


def test_log_mels_show_loudness_and_pitch():
    front = frontend(model_config(encoder={"logmel": {"mels": 40}}).encoder)
    time = np.arange(16_000) / 16_000
    low, high = (np.sin(2 * np.pi * hz * time).astype(np.float32) for hz in (200, 3000))
    quiet = front.features(0.01 * low)
    loud = front.features(0.1 * low)
    assert quiet.shape == (16_000 // 160 + 1, 40)
    assert front.features(high).mean(0).argmax() > loud.mean(0).argmax()
    # Ten times the amplitude is ln(100) more log power, on the fixed scale.
    peak = loud.mean(0).argmax()
    assert loud[50, peak] - quiet[50, peak] == pytest.approx(np.log(100) / 4.0, rel=0.05)
    assert front.features(np.zeros(1, np.float32)).shape == (1, 40)
