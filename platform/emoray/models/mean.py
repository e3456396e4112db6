"""The baseline that nothing may fall below: predict the mean of the training labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emoray.models.batch import Batch, Output
from emoray.schema import DIMENSIONS


class TrainMean(nn.Module):
    """Says the same of every clip; its CCC is 0 by definition, its MAE is what others must beat.

    Not trained by gradient, hence not in `emoray.models.MODELS`.

    Args:
        target_N3: Labels of the training split, NaN where unlabelled.
    """

    mean_3: Tensor

    def __init__(self, target_N3: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_3", target_N3.nanmean(0))
        assert self.mean_3.shape == (len(DIMENSIONS),)

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        return Output(torch.as_tensor(self.mean_3).expand(len(batch), -1))
