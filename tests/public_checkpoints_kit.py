"""Public speech emotion checkpoints with random weights: names, files and settings as they lie on the hub.

The published settings are the defaults; `SMALL` makes a network of the same layout that a test can afford.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

OUTPUTS = {"0": "arousal", "1": "dominance", "2": "valence"}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
MEAN, DEVIATION = -8.278621631819787e-05, 0.08485610250851999


def write_wav2vec2_dim(folder: Path, *, pickled: bool = False, **changes: Any) -> dict[str, Tensor]:
    """The files of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim. Returns the weights."""
    settings = {**LARGE, "num_hidden_layers": 12, "conv_bias": True, **changes}
    encoder = Wav2Vec2Model(Wav2Vec2Config(**settings))
    width = encoder.config.hidden_size
    state = {
        **_named(encoder, "wav2vec2."),
        **_linear("classifier.dense", width, width),
        **_linear("classifier.out_proj", width, 3),
    }
    document = {
        **encoder.config.to_dict(),
        "architectures": ["Wav2Vec2ForSpeechClassification"],
        "finetuning_task": "wav2vec2_reg",
        "pooling_mode": "mean",
        "final_dropout": 0.1,
        "id2label": OUTPUTS,
    }
    _write(folder, document, state, pickled=pickled, licence="cc-by-nc-sa-4.0")
    processor = {"do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return state


def write_odyssey(folder: Path, *, pickled: bool = True, **changes: Any) -> tuple[dict[str, Tensor], Path]:
    """The files of 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes. Returns the weights and the encoder's folder."""
    encoder = WavLMModel(WavLMConfig(**{**LARGE, "num_hidden_layers": 24, "conv_bias": False, **changes}))
    wavlm = folder.parent / f"{folder.name}-wavlm-large"
    wavlm.mkdir(parents=True)
    (wavlm / "config.json").write_text(json.dumps(encoder.config.to_dict(), default=str))
    width = encoder.config.hidden_size
    state = {
        **_named(encoder, "ssl_model."),
        **_linear("pool_model.sap_linear", width, width),
        "pool_model.attention": torch.randn(width, 1),
        **_linear("ser_model.fc.0.0", 2 * width, width),
        "ser_model.fc.0.1.weight": 1 + 0.1 * torch.randn(width),
        "ser_model.fc.0.1.bias": 0.1 * torch.randn(width),
        **_linear("ser_model.out.0", width, 3),
    }
    document = {
        "architectures": ["SERModel"],
        "auto_map": {"AutoModelForAudioClassification": "pipeline_utils.SERModel"},
        "model_type": "ser",
        "ssl_type": "microsoft/wavlm-large",
        "hidden_size": width,
        "num_classes": 3,
        "classifier_hidden_layers": 1,
        "classifier_dropout_prob": 0.5,
        "mean": MEAN,
        "std": DEVIATION,
        "id2label": OUTPUTS,
    }
    _write(folder, document, state, pickled=pickled, licence="mit")
    return state, wavlm


def _named(encoder: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    """An encoder's weights under the names that torch gave the parts of a normalised weight when these were saved."""
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    named = {}
    for name, value in encoder.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        named[prefix + name] = value.clone()
    return named


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(outputs, inputs) / inputs**0.5, f"{name}.bias": 0.1 * torch.randn(outputs)}


def _write(folder: Path, document: dict[str, Any], state: dict[str, Tensor], *, pickled: bool, licence: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(document, default=str))
    (folder / "README.md").write_text(f"---\nlanguage: en\nlicense: {licence}\ntags:\n- speech\n---\n# A model\n")
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
