"""Models: acoustic encoders, pooling, fusion, and one file per published system."""

from __future__ import annotations

from torch import nn

from emoray.models.acoustic import Acoustic
from emoray.models.batch import LEVELS, Batch, Output
from emoray.models.concat import Concat
from emoray.models.config import EncoderConfig, ModelConfig
from emoray.models.encoders import architecture
from emoray.models.frontend import Frontend, LogMelFrontend, WaveformFrontend
from emoray.models.msf_ser import MsfSer

__all__ = ["LEVELS", "MODELS", "Batch", "Frontend", "ModelConfig", "Output", "build", "frontend", "portable"]

MODELS: dict[str, type[nn.Module]] = {"msf_ser": MsfSer, "acoustic": Acoustic, "concat": Concat}


def build(config: ModelConfig) -> nn.Module:
    """The model of a configuration, freshly initialised (but for a pre-trained encoder)."""
    return MODELS[config.name](config)


def frontend(config: EncoderConfig) -> Frontend:
    """The part of an encoder that is not learned."""
    if config.kind == "logmel":
        return LogMelFrontend(config.logmel)
    return WaveformFrontend(architecture(config.ssl)["normalise"])


def portable(config: ModelConfig) -> ModelConfig:
    """The configuration to store beside saved weights: building from it needs no pre-trained checkpoint."""
    if config.encoder.kind == "logmel":
        return config
    ssl = config.encoder.ssl.model_copy(update={"architecture": architecture(config.encoder.ssl)})
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"ssl": ssl})})
