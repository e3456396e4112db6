"""Sound alone: the baseline that every use of text is compared with."""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.heads import ClassHead, MlpHead, PooledSound


class Acoustic(nn.Module):
    """Encoder, attentive statistics and an MLP: with WavLM the MSP-Podcast challenge baseline [second-hand].

    The preset `challenge` has the baseline's options. Text vectors in the batch are ignored. The linear projection
    between the statistics and the MLP's first layer is [ours].

    Args:
        config: Encoder, head and classes.
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
