"""EmoSphere-SER: regression of valence, arousal and dominance beside regions of their sphere (arXiv 2505.19693).

Shapes: B batch, T frames, D width, R regions, C classes, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.heads import LABEL_CENTER, build_encoder
from emoray.models.pooling import StylePooling
from emoray.models.regions import region_count
from emoray.schema import DIMENSIONS


class EmoSphere(nn.Module):
    """EmoSphere-SER (arXiv 2505.19693) [code].

    An encoder's hidden states, style pooling, and two heads on the pooled vector: the three dimensions, and their
    region of the sphere (`emoray.models.regions`), whose loss fades out over the first epochs
    (`train.objective.region`). Text vectors in the batch are ignored. A head of named classes (`classes`)
    is [ours]; so is any encoder but WavLM's last hidden state.

    Raises:
        ConfigError: The options of style pooling do not fit together.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.emosphere
        self.encoder = build_encoder(config.encoder)
        self.pool = StylePooling(self.encoder.width, config.width, own.kernel, own.heads, own.dropout)
        self.dimensions = _head(config, len(DIMENSIONS), LABEL_CENTER)
        self.regions = _head(config, region_count(own.regions))
        self.classify = _head(config, len(config.classes)) if config.classes else None

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        vector_BD = self.pool(*self.encoder(batch.features_BTF, batch.lengths_B))
        logits_BC = None if self.classify is None else self.classify(vector_BD)
        return Output(self.dimensions(vector_BD), logits_BC, regions_BR=self.regions(vector_BD))


def _head(config: ModelConfig, outputs: int, start: float = 0.0) -> nn.Sequential:
    """A head whose outputs start around a value."""
    output = nn.Linear(config.hidden, outputs)
    nn.init.constant_(output.bias, start)
    return nn.Sequential(
        nn.Dropout(config.dropout),
        nn.Linear(config.width, config.hidden),
        nn.LayerNorm(config.hidden),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        output,
    )
