"""CNN14 on sound alone: the audio baseline of multistage linguistic conditioning (arXiv 2110.06650).

Shapes: B batch, T frames, D width.
"""

from __future__ import annotations

from torch import nn

from emoray.errors import ConfigError
from emoray.models.batch import Batch, Output
from emoray.models.cnn14_encoder import Cnn14Encoder
from emoray.models.config import ModelConfig
from emoray.models.heads import Cnn14Head
from emoray.models.pooling import max_mean


class Cnn14(nn.Module):
    """CNN14 (arXiv 1912.10211) [code] on sound alone: the audio baseline of arXiv 2110.06650 [text].

    Mean over the mels, maximum plus mean over time, one hidden layer. Text vectors in the batch are ignored.

    Raises:
        ConfigError: `encoder.kind` is not `cnn14`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = cnn14_encoder(config)
        self.head = Cnn14Head(self.encoder.width, config)

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        return self.head(max_mean(*self.encoder(batch.features_BTF, batch.lengths_B)))


def cnn14_encoder(config: ModelConfig) -> Cnn14Encoder:
    """The encoder of a model that is defined on CNN14.

    Raises:
        ConfigError: `encoder.kind` is not `cnn14`.
    """
    if config.encoder.kind != "cnn14":
        raise ConfigError(
            f"{config.name} is built on CNN14, not on {config.encoder.kind}",
            where="model.encoder.kind",
            remedy="Set model.encoder.kind=cnn14",
        )
    return Cnn14Encoder(config.encoder.cnn14)
