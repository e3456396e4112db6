"""Concatenated sound and text: the fusion baseline."""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.fusion import ConcatMlp, SemanticsProjection, granularity_indices
from emoray.models.heads import LABEL_CENTER, ClassHead, PooledSound
from emoray.schema import DIMENSIONS


class Concat(nn.Module):
    """Pooled sound and frozen text vectors, concatenated, through one hidden layer.

    With WavLM and `granularities: [gs]` from RoBERTa it is the core of the 2025 MSP-Podcast challenge winner
    [second-hand]; with all granularities it is what MSF-SER's fusion must beat on the same inputs [ours]. Absent
    vectors are learned ones.

    Raises:
        ConfigError: No granularity is left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._granularities = granularity_indices(config)
        count = len(config.granularities)
        self.sound = PooledSound(config)
        self.semantics = SemanticsProjection(config.text_width, config.width, count)
        self.fusion = ConcatMlp(config.width, count, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden, len(DIMENSIONS))
        nn.init.constant_(self.output.bias, LABEL_CENTER)
        self.classify = ClassHead(config.hidden, len(config.classes))

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        text_BKE, present_BK = batch.text_BKE[:, self._granularities], batch.present_BK[:, self._granularities]
        hidden_BD = self.fusion(self.sound(batch), self.semantics(text_BKE, present_BK))
        return Output(self.output(hidden_BD), self.classify(hidden_BD))
