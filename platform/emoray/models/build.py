"""A model, and the front-end of its encoder, by configuration."""

from __future__ import annotations

from torch import nn

from emoray.config import Section
from emoray.errors import ConfigError
from emoray.models.config import EncoderConfig, ModelConfig
from emoray.models.encoders import architecture
from emoray.models.frontend import Frontend, LogMelFrontend, MoonshineFrontend, WaveformFrontend
from emoray.models.heads import feature_width
from emoray.models.speaker_norms import add_speaker_norms
from emoray.models.systems.acoustic import Acoustic
from emoray.models.systems.challenge import ChallengeBaseline
from emoray.models.systems.cnn14 import Cnn14
from emoray.models.systems.concat import Concat
from emoray.models.systems.emosphere import EmoSphere
from emoray.models.systems.late_fusion import LateFusion
from emoray.models.systems.mean import TrainMean
from emoray.models.systems.msf_ser import MsfSer
from emoray.models.systems.multistage import Multistage
from emoray.models.systems.perspective import Perspective
from emoray.models.systems.single_stage import SingleStage
from emoray.models.systems.statistics_svm import StatisticsSvm
from emoray.models.systems.text import TextOnly
from emoray.models.systems.wav2vec2_dim import Wav2Vec2Dim

MODELS: dict[str, type[nn.Module]] = {
    "msf_ser": MsfSer,
    "emosphere": EmoSphere,
    "multistage": Multistage,
    "single_stage": SingleStage,
    "late_fusion": LateFusion,
    "perspective": Perspective,
    "concat": Concat,
    "acoustic": Acoustic,
    "challenge": ChallengeBaseline,
    "wav2vec2_dim": Wav2Vec2Dim,
    "cnn14": Cnn14,
    "text": TextOnly,
    "statistics_svm": StatisticsSvm,
    "mean": TrainMean,
}

#: Models that ignore text vectors.
SOUND_ALONE = frozenset({"emosphere", "acoustic", "challenge", "wav2vec2_dim", "cnn14", "statistics_svm", "mean"})

#: Models whose clips are turns: their batches, in training and in evaluation, are whole dialogues.
OVER_DIALOGUES: tuple[type[nn.Module], ...] = (Perspective,)

#: Models that are fitted to the labels without training steps.
WITHOUT_GRADIENT = frozenset({"statistics_svm", "mean"})


def build(config: ModelConfig) -> nn.Module:
    """The model of a configuration, newly initialised (except for a pre-trained encoder).

    Raises:
        ConfigError: An option does not fit another.
    """
    model = MODELS[config.name](config)
    if config.encoder.speaker_norms:
        if config.encoder.kind == "ssl":
            raise ConfigError(
                "a waveform has no features to measure against a speaker",
                where="model.encoder.speaker_norms",
                remedy="Set it to false, or use model.encoder.kind=logmel, moonshine or moonshine_logmel",
            )
        add_speaker_norms(model, feature_width(config.encoder))
    return model


def frontend(config: EncoderConfig) -> Frontend:
    """The part of an encoder that is not learned."""
    if config.kind == "ssl":
        return WaveformFrontend(architecture(config.ssl)["normalise"])
    if config.kind in ("moonshine", "moonshine_logmel"):
        mel = config.logmel if config.kind == "moonshine_logmel" else None
        return MoonshineFrontend(config.moonshine.revision, mel)
    return LogMelFrontend(config.logmel if config.kind == "logmel" else config.cnn14)


def portable(config: ModelConfig) -> ModelConfig:
    """The configuration to store beside saved weights: building from it needs no pre-trained checkpoint."""
    encoder, update = config.encoder, dict[str, Section]()
    if encoder.kind == "ssl":
        update = {"ssl": encoder.ssl.model_copy(update={"architecture": architecture(encoder.ssl)})}
    elif isinstance(front := frontend(encoder), MoonshineFrontend):
        update = {"moonshine": encoder.moonshine.model_copy(update={"revision": front.revision})}
    return config.model_copy(update={"encoder": encoder.model_copy(update=update)})
