"""Single-stage linguistic conditioning, to compare the multistage form with (arXiv 2110.06650).

Shapes: B batch, T frames, D width, E text width.
"""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.fusion import TextVector
from emoray.models.heads import Cnn14Head
from emoray.models.pooling import max_mean
from emoray.models.systems.cnn14 import cnn14_encoder


class SingleStage(nn.Module):
    """SFCNN: single-stage linguistic conditioning of CNN14 (arXiv 2110.06650) [text].

    The projected text vector is added once, to the embedding that CNN14 pools over time: h + ReLU(W e + b), then the
    head. The choice of this embedding, before the hidden layer, and the ReLU of the multistage form in the
    projection are [ours]. Granularities and absent text as in `emoray.models.systems.multistage`.

    Raises:
        ConfigError: `encoder.kind` is not `cnn14`, or no granularity is left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = cnn14_encoder(config)
        self.text = TextVector(config)
        self.condition = nn.Linear(self.text.width, self.encoder.width)
        self.head = Cnn14Head(self.encoder.width, config)

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        sound_BD = max_mean(*self.encoder(batch.features_BTF, batch.lengths_B))
        return self.head(sound_BD + self.condition(self.text(batch)).relu())
