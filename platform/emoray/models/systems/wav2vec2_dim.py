"""The dimensional wav2vec 2.0 model that audEERING published: mean of the last hidden states, one hidden layer."""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.heads import LABEL_CENTER, ClassHead, build_encoder
from emoray.models.pooling import masked_mean
from emoray.schema import DIMENSIONS


class Wav2Vec2Dim(nn.Module):
    """A fine-tuned speech encoder with a regression head (Wagner et al., arXiv 2203.07378) [code].

    The mean of the encoder's last hidden states over time; dropout, a tanh layer, dropout, the three dimensions. Text
    vectors in the batch are ignored.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder)
        self.hidden = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(self.encoder.width, config.hidden),
            nn.Tanh(),
            nn.Dropout(config.dropout),
        )
        self.output = nn.Linear(config.hidden, len(DIMENSIONS))
        nn.init.constant_(self.output.bias, LABEL_CENTER)
        self.classify = ClassHead(config.hidden, len(config.classes))

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        hidden_BD = self.hidden(masked_mean(*self.encoder(batch.features_BTF, batch.lengths_B)))
        return Output(self.output(hidden_BD), self.classify(hidden_BD))
