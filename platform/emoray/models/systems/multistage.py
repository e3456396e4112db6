"""Multistage linguistic conditioning of convolutional layers (arXiv 2110.06650).

Shapes: B batch, T frames, C channels, D width, E text width.
"""

from __future__ import annotations

from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.fusion import TextVector
from emoray.models.heads import Cnn14Head
from emoray.models.pooling import max_mean
from emoray.models.systems.cnn14 import cnn14_encoder


class Multistage(nn.Module):
    """MFCNN: multistage linguistic conditioning of CNN14 (arXiv 2110.06650) [text].

    The blocks are those of CNN14 in the same first author's code [code]. The text vector shifts the channels at every
    block, the same at every frame and mel::

        H_b = Pool(Conv_b(H_{b−1})) + ReLU(W_b e + b_b)

    then mean over the mels, maximum plus mean over time, one hidden layer. In the paper e is the mean of the
    transcript's BERT states: `granularities: [gs]`. Several concatenated granularities, a learned vector for an absent
    one, and dropout after the sum rather than before are [ours].

    Raises:
        ConfigError: `encoder.kind` is not `cnn14`, or no granularity is left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = cnn14_encoder(config)
        self.text = TextVector(config)
        self.conditions = nn.ModuleList(nn.Linear(self.text.width, channels) for channels in self.encoder.channels)
        self.head = Cnn14Head(self.encoder.width, config)

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        text_BE = self.text(batch)
        shifts = [condition(text_BE).relu() for condition in self.conditions]
        return self.head(max_mean(*self.encoder(batch.features_BTF, batch.lengths_B, shifts)))
