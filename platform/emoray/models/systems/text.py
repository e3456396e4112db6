"""Text alone: the baseline that shows how much the words of a corpus tell."""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.fusion import TextVector
from emoray.models.heads import ClassHead, MlpHead


class TextOnly(nn.Module):
    """Frozen text vectors and an MLP, without any sound: the text baseline of arXiv 2110.06650 [text], the head [ours].

    With `granularities: [gs]` it reads the transcript alone. Without text it predicts the same for every clip.

    Raises:
        ConfigError: No granularity is left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextVector(config)
        self.head = MlpHead(self.text.width, config.hidden, config.dropout)
        self.classify = ClassHead(config.hidden, len(config.classes))

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        prediction_B3, hidden_BD = self.head(self.text(batch))
        return Output(prediction_B3, self.classify(hidden_BD))
