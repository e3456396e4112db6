"""Pooling over time, masked so that padding never changes a result.

Shapes: B batch, T frames, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def masked_mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the valid frames, (B, D)."""
    weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp_min(1)


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling (Okabe et al., arXiv 1803.10963).

    a_t = softmax_t(vᵀ tanh(W h_t)), μ = Σ a_t h_t, s = sqrt(Σ a_t h_t² − μ²); gives [μ; s].

    Args:
        width: Width D of the frames.
        attention: Width of the attention's hidden layer.
    """

    #: Variance below which the deviation counts as zero: keeps the square root's gradient finite.
    MIN_VARIANCE = 1e-5

    def __init__(self, width: int, attention: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, attention)
        self.score = nn.Linear(attention, 1, bias=False)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Pool the valid frames to (B, 2D)."""
        score_BT = self.score(torch.tanh(self.project(hidden_BTD))).squeeze(-1)
        weight_BT1 = score_BT.masked_fill(~mask_BT, -torch.inf).softmax(dim=1).unsqueeze(-1)
        hidden_BTD = hidden_BTD.masked_fill(~mask_BT.unsqueeze(-1), 0)
        mean_BD = (weight_BT1 * hidden_BTD).sum(1)
        # Σ a (h − μ)² equals Σ a h² − μ² and does not cancel.
        variance_BD = (weight_BT1 * (hidden_BTD - mean_BD.unsqueeze(1)).square()).sum(1)
        return torch.cat([mean_BD, variance_BD.clamp_min(self.MIN_VARIANCE).sqrt()], dim=-1)
