"""The baseline that every model must exceed: predict the mean of the training labels.

Shapes: N clips, B batch, C classes, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.heads import LABEL_CENTER
from emoray.schema import DIMENSIONS


class TrainMean(nn.Module):
    """Predicts the same for every clip: the mean of the training labels, and the share of each class among them [ours].

    Its CCC is 0 by definition, its UAR 1 / C; its MAE is what others must improve on. It has no weights, so training
    takes no step: there is `fit`, and the run ends with one evaluation on dev. Before `fit` it predicts the middle of
    the scale.
    """

    mean_3: Tensor
    share_C: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        classes = len(config.classes)
        self.register_buffer("mean_3", torch.full((len(DIMENSIONS),), LABEL_CENTER))
        self.register_buffer("share_C", torch.full((classes,), 1 / classes) if classes else None)

    def fit(self, target_N3: Tensor, label_N: Tensor) -> None:
        """Compute the mean of the training labels (NaN where unlabelled) and the shares of the class indices (−1).

        A dimension without labels keeps the middle.
        """
        mean_3 = target_N3.nanmean(0)
        self.mean_3.copy_(torch.where(mean_3.isnan(), self.mean_3, mean_3))
        if self.share_C is not None and bool((label_N >= 0).any()):
            count_C = torch.bincount(label_N[label_N >= 0], minlength=len(self.share_C))
            self.share_C.copy_(count_C / count_C.sum())

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        prediction_B3 = self.mean_3.expand(len(batch), -1)
        if self.share_C is None:
            return Output(prediction_B3)
        share_C = self.share_C.clamp_min(torch.finfo(self.share_C.dtype).tiny)
        return Output(prediction_B3, share_C.log().expand(len(batch), -1))
