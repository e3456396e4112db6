"""The baseline of the MSP-Podcast challenge at Odyssey 2024: a speech encoder, attentive statistics and an MLP."""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.heads import ClassHead, MlpHead, build_encoder
from emoray.models.pooling import AttentiveStatistics


class ChallengeBaseline(nn.Module):
    """The MSP-Podcast challenge baseline (Goncalves et al., Odyssey 2024) [code]: WavLM-large, ASP and an MLP.

    The encoder's last hidden states are pooled by attentive statistics whose attention is as wide as the encoder;
    dropout, one hidden layer with LayerNorm, ReLU and dropout, then the three dimensions. The preset `challenge` has
    its options. Text vectors in the batch are ignored.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder)
        self.pool = AttentiveStatistics(self.encoder.width, self.encoder.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = MlpHead(2 * self.encoder.width, config.hidden, config.dropout)
        self.classify = ClassHead(config.hidden, len(config.classes))

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        pooled_BD = self.pool(*self.encoder(batch.features_BTF, batch.lengths_B))
        prediction_B3, hidden_BD = self.head(self.dropout(pooled_BD))
        return Output(prediction_B3, self.classify(hidden_BD))
