"""Sound alone: the baseline for every use of text."""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.heads import ClassHead, MlpHead, PooledSound


class Acoustic(nn.Module):
    """MSF-SER's sound alone [ours]: encoder, attentive statistics, a linear projection and an MLP.

    The MSP-Podcast challenge baseline, which has no projection, is `systems/challenge.py`. Text vectors in the batch
    are ignored.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.sound = PooledSound(config)
        self.head = MlpHead(config.width, config.hidden, config.dropout)
        self.classify = ClassHead(config.hidden, len(config.classes))

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        prediction_B3, hidden_BD = self.head(self.sound(batch))
        return Output(prediction_B3, self.classify(hidden_BD))
