"""Layers that the models share: from sound to one vector, from a vector to labels.

Shapes: B batch, T frames, F features, D width, C classes, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

from torch import Tensor, nn

from emoray.audio import moonshine
from emoray.models.batch import Batch, Output
from emoray.models.cnn14_encoder import Cnn14Encoder, MaskedBatchNorm
from emoray.models.config import EncoderConfig, ModelConfig
from emoray.models.encoders import GivenStates, LogMelEncoder, SslEncoder
from emoray.models.pooling import AttentiveStatistics, mean_deviation
from emoray.schema import DIMENSIONS

#: Middle of the label scale: outputs start there.
LABEL_CENTER = 0.5


def feature_width(config: EncoderConfig) -> int:
    """Features per frame F of an encoder's front-end."""
    states = {"moonshine": moonshine.INNER_WIDTH, "moonshine_logmel": moonshine.INNER_WIDTH + config.logmel.mels}
    return {"logmel": config.logmel.mels, "cnn14": config.cnn14.mels, "ssl": 1, **states}[config.kind]


def build_encoder(config: EncoderConfig) -> LogMelEncoder | Cnn14Encoder | SslEncoder | GivenStates:
    """The acoustic encoder of a configuration."""
    if config.kind == "logmel":
        return LogMelEncoder(config.logmel)
    if config.kind == "cnn14":
        return Cnn14Encoder(config.cnn14)
    return SslEncoder(config.ssl) if config.kind == "ssl" else GivenStates(feature_width(config))


class PooledSound(nn.Module):
    """h_a = W_a ASP(H): the encoder and attentive statistics, projected to the common width.

    Over a frozen encoder whose states the front-end gives, h_a = W_a Drop(BN([mean; deviation])): there is too little
    to learn an attention from, and statistics differ in scale by a factor of ten, so that without the normalisation a
    network learns less from them than a support vector machine (docs/decisions/0031, 0035).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder)
        frozen = isinstance(self.encoder, GivenStates)
        self.pool = mean_deviation if frozen else AttentiveStatistics(self.encoder.width, config.attention)
        self.norm = MaskedBatchNorm(2 * self.encoder.width) if frozen else None
        self.dropout = nn.Dropout(config.encoder.moonshine.dropout)
        self.project = nn.Linear(2 * self.encoder.width, config.width)

    def forward(self, batch: Batch) -> Tensor:
        """One vector (B, D) per clip."""
        hidden_BTD, mask_BT = self.encoder(batch.features_BTF, batch.lengths_B)
        pooled_BD = self.pool(hidden_BTD, mask_BT)
        if self.norm is not None:
            one_frame_BT = mask_BT.new_ones(len(pooled_BD), 1)
            pooled_BD = self.dropout(self.norm(pooled_BD[:, :, None, None], one_frame_BT)[:, :, 0, 0])
        return self.project(pooled_BD)


class MlpHead(nn.Module):
    """The head of the MSP-Podcast challenge baseline: one hidden layer, then the three dimensions."""

    def __init__(self, inputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout))
        self.output = nn.Linear(hidden, len(DIMENSIONS))
        nn.init.constant_(self.output.bias, LABEL_CENTER)

    def forward(self, vector_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (B, 3) and the hidden vector (B, hidden) for a categorical head."""
        hidden_BD = self.hidden(vector_BD)
        return self.output(hidden_BD), hidden_BD


class ClassHead(nn.Module):
    """The optional categorical head: logits of the named classes, or None."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(inputs, classes) if classes else None

    def forward(self, vector_BD: Tensor) -> Tensor | None:
        """Logits (B, C), or None without a head."""
        return None if self.output is None else self.output(vector_BD)


class Cnn14Head(nn.Module):
    """The head of CNN14 (arXiv 1912.10211) [code]: one hidden layer as wide as its input, ReLU, then the outputs."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(config.dropout))
        self.output = nn.Linear(width, len(DIMENSIONS))
        nn.init.constant_(self.output.bias, LABEL_CENTER)
        self.classify = ClassHead(width, len(config.classes))

    def forward(self, vector_BD: Tensor) -> Output:
        """Score vectors."""
        hidden_BD = self.hidden(vector_BD)
        return Output(self.output(hidden_BD), self.classify(hidden_BD))
