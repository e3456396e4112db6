"""Public speech emotion checkpoints in Hugging Face layout, read as our models with their weights.

Two layouts are recognised by the names of their weights:

- `wav2vec2.*`, `classifier.dense.*`, `classifier.out_proj.*`, as in
  audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim;
- `ssl_model.*`, `pool_model.*`, `ser_model.*`, as in 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes.

No code of a repository is run, and pickled weights are read as tensors only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from emoray.config import merge, validate
from emoray.errors import ConfigError
from emoray.models.build import build
from emoray.models.config import ModelConfig
from emoray.schema import DIMENSIONS

#: File names of weights, the preferred first.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: Files besides the weights that describe a checkpoint.
SETTINGS = ("config.json", "preprocessor_config.json", "README.md")

#: The release divides by the deviation plus this.
_ODYSSEY_EPSILON = 1e-6
#: Buffers and parameters of pre-training only, which a checkpoint need not have.
_PRETRAINING = re.compile(r"masked_spec_embed$")
#: Weight normalisation: names of its parts in torch before 2.0 and since.
_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


@dataclass(frozen=True)
class PublicCheckpoint:
    """A checkpoint as one of our models.

    Attributes:
        config: The model's configuration; building from it needs no checkpoint.
        model: The model with the checkpoint's weights, its outputs in our order.
        outputs: Names of the checkpoint's outputs, in its own order.
        licence: Licence by the repository's card (`cc-by-nc-sa-4.0`), or None if it names none.
    """

    config: ModelConfig
    model: nn.Module
    outputs: tuple[str, ...]
    licence: str | None
    parameters: int


@dataclass(frozen=True)
class _Mapped:
    """A checkpoint mapped to one of our models: configuration, weights by our names, and its last layer."""

    changes: dict[str, Any]
    weights: dict[str, Tensor]
    last: str


def read_checkpoint(folder: Path, base: ModelConfig, *, name: str, encoder: str | None = None) -> PublicCheckpoint:
    """Read a checkpoint's folder.

    Args:
        folder: `config.json`, weights and optionally `preprocessor_config.json` and the card `README.md`.
        base: Configuration for everything that the checkpoint does not decide.
        name: Name of the checkpoint in the model's configuration.
        encoder: Folder or hub id of the encoder whose configuration the checkpoint refers to but does not contain
            (`ssl_type` of the Odyssey layout); by default what the checkpoint names.

    Raises:
        ConfigError: The folder is incomplete, has an unknown layout, or its weights do not fit its configuration
            (`unknown_checkpoint`).
    """
    settings, state = _settings(folder), _weights(folder)
    outputs = _outputs(settings, folder)
    if {"classifier.dense.weight", "classifier.out_proj.weight"} <= state.keys():
        mapped = _wav2vec2_dim(settings, state, folder)
    elif {"pool_model.sap_linear.weight", "ser_model.out.0.weight"} <= state.keys():
        mapped = _odyssey(settings, state, folder, encoder)
    else:
        raise _unknown(folder, f"no known layout has weights called {', '.join(sorted(state)[:3])} …")
    order = [outputs.index(dimension) for dimension in DIMENSIONS]
    for part in ("weight", "bias"):
        mapped.weights[f"{mapped.last}.{part}"] = mapped.weights[f"{mapped.last}.{part}"][order]
    mapped.changes["encoder"]["ssl"]["checkpoint"] = name
    config = validate(ModelConfig, merge(base.model_dump(mode="json"), {**mapped.changes, "classes": []}))
    model = build(config)
    _fill(model, mapped.weights, folder)
    return PublicCheckpoint(config, model, outputs, _licence(folder), sum(one.numel() for one in model.parameters()))


def _wav2vec2_dim(settings: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> _Mapped:
    if settings.get("pooling_mode", "mean") != "mean":
        raise _unknown(folder, f"its pooling is {settings['pooling_mode']}; only the mean is known")
    kind = settings["model_type"]
    prefixes = {f"{kind}.": "encoder.backbone.", "classifier.dense.": "hidden.1.", "classifier.out_proj.": "output."}
    processor = folder / "preprocessor_config.json"
    normalise = json.loads(processor.read_text()).get("do_normalize", True) if processor.is_file() else True
    changes = _changes(
        "wav2vec2_dim",
        hidden=len(state["classifier.dense.weight"]),
        dropout=settings.get("final_dropout", 0.1),
        encoder=dict(settings),
        normalise=normalise,
    )
    return _Mapped(changes, _renamed(state, prefixes, folder), "output")


def _odyssey(settings: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path, encoder: str | None) -> _Mapped:
    if settings.get("classifier_hidden_layers", 1) != 1:
        raise _unknown(folder, "its head has more than one hidden layer")
    prefixes = {
        "ssl_model.": "encoder.backbone.",
        "pool_model.sap_linear.": "pool.project.",
        "pool_model.attention": "pool.score.weight",
        "ser_model.fc.0.0.": "head.hidden.0.",
        "ser_model.fc.0.1.": "head.hidden.1.",
        "ser_model.out.0.": "head.output.",
    }
    renamed = _renamed(state, prefixes, folder)
    renamed["pool.score.weight"] = renamed["pool.score.weight"].T
    changes = _changes(
        "challenge",
        hidden=len(state["ser_model.fc.0.0.weight"]),
        dropout=settings.get("classifier_dropout_prob", 0.5),
        encoder=_encoder_settings(encoder or settings["ssl_type"]),
        normalise=[settings["mean"], settings["std"] + _ODYSSEY_EPSILON],
    )
    return _Mapped(changes, renamed, "head.output")


def _changes(
    name: str, *, hidden: int, dropout: float, encoder: dict[str, Any], normalise: bool | Sequence[float]
) -> dict[str, Any]:
    ssl = {"revision": None, "layers": "last", "architecture": {"model": encoder, "normalise": normalise}}
    encoder_changes = {"kind": "ssl", "speaker_norms": False, "ssl": ssl}
    return {"name": name, "hidden": hidden, "dropout": dropout, "encoder": encoder_changes}


def _encoder_settings(named: str) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        return dict(AutoConfig.from_pretrained(named).to_dict())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the checkpoint builds on {named!r}, whose configuration cannot be read: {str(error).splitlines()[0]}",
            remedy="Name a folder with its config.json: --encoder FOLDER",
            kind="unknown_checkpoint",
        ) from error


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unknown(folder, f"its config.json cannot be read: {error}") from error
    return settings


def _weights(folder: Path) -> dict[str, Tensor]:
    present = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if present is None:
        raise _unknown(folder, f"it has no weights ({' or '.join(WEIGHTS)})")
    try:
        if present.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(str(folder / present))
        state = torch.load(folder / present, map_location="cpu", weights_only=True, mmap=True)
        return dict(state)
    except Exception as error:  # safetensors, torch and the unpickler raise errors of many types
        raise _unknown(folder, f"{present} cannot be read: {str(error).splitlines()[0]}") from error


def _renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str], folder: Path) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            raise _unknown(folder, f"it has {name}, which its layout does not know")
        target = prefixes[prefix] + name.removeprefix(prefix)
        stem, _, end = target.rpartition(".")
        renamed[f"{stem}.{_WEIGHT_NORM.get(end, end)}"] = value.float()
    return renamed


def _outputs(settings: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    labels = settings.get("id2label") or {}
    names = tuple(str(labels[key]).lower() for key in sorted(labels, key=int))
    if sorted(names) != sorted(DIMENSIONS):
        raise _unknown(folder, f"its outputs (id2label) are {', '.join(names) or 'not named'}")
    return names


def _fill(model: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    own = model.state_dict()
    misshapen = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing = [name for name in own if name not in state and not _PRETRAINING.search(name)]
    further = [name for name in state if name not in own and not _PRETRAINING.search(name)]
    for what, names in (("of another shape", misshapen), ("missing", missing), ("unknown", further)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise _unknown(folder, f"its weights do not fit its configuration: {names[0]}{more} {what}")
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    model.eval()


def _licence(folder: Path) -> str | None:
    """The licence by the front matter of the repository's card."""
    card = folder / "README.md"
    found = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    try:
        front = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    value = front.get("license") if isinstance(front, dict) else None
    return str(value) if value else None


def _unknown(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"not a speech emotion checkpoint that emoray can import: {what}",
        where=str(folder),
        remedy="Known layouts: audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim and"
        " 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes",
        kind="unknown_checkpoint",
    )
