"""Pooling over time, masked so that padding never changes a result.

Shapes: B batch, H heads, T frames, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emoray.errors import ConfigError


def masked_mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the valid frames, (B, D)."""
    weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp_min(1)


def mean_deviation(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean and standard deviation (population) over the valid frames, (B, 2D)."""
    mask_BT1, frames_B1 = mask_BT.unsqueeze(-1), mask_BT.sum(1, keepdim=True)
    mean_BD = hidden_BTD.masked_fill(~mask_BT1, 0).sum(1) / frames_B1
    residual_BTD = (hidden_BTD - mean_BD.unsqueeze(1)).masked_fill(~mask_BT1, 0)
    return torch.cat([mean_BD, (residual_BTD.square().sum(1) / frames_B1).sqrt()], dim=-1)


def max_mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Maximum plus mean over the valid frames, (B, D): the pooling of CNN14 (arXiv 1912.10211) [code]."""
    return hidden_BTD.masked_fill(~mask_BT.unsqueeze(-1), -torch.inf).amax(1) + masked_mean(hidden_BTD, mask_BT)


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling (Okabe et al., arXiv 1803.10963) over frames; `attention` is the hidden width.

    a_t = softmax_t(vᵀ tanh(W h_t)), μ = Σ a_t h_t, s = sqrt(Σ a_t h_t² − μ²); the result is [μ; s].
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


class StylePooling(nn.Module):
    """Style pooling of EmoSphere-SER (arXiv 2505.19693) [code].

    It is the Mel style encoder of Meta-StyleSpeech (arXiv 2106.03153) over an encoder's hidden states: two [Linear,
    Mish, Dropout]; two gated convolutions X ← X + Drop(P ⊙ σ(Q)) with [P; Q] = Conv1d(X); self-attention with scores /
    sqrt(D), D the full width and not a head's, dropout and a residual but no LayerNorm; Linear; masked mean. The
    release masks before the attention only; here padding is also set to zero before each convolution [ours], so that it
    never changes a result.

    Raises:
        ConfigError: The kernel is even, or the width is no multiple of the heads.
    """

    def __init__(self, inputs: int, width: int, kernel: int, heads: int, dropout: float) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError(f"kernel {kernel} is even", where="model.emosphere.kernel", remedy="Use an odd one")
        if width % heads:
            raise ConfigError(
                f"width {width} is no multiple of {heads} heads", where="model.emosphere.heads", remedy="Use a divisor"
            )
        self._heads, self._dropout = heads, dropout
        self.frames = nn.Sequential(
            nn.Linear(inputs, width), nn.Mish(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.Mish(), nn.Dropout(dropout),
        )  # fmt: skip
        self.convolutions = nn.ModuleList(nn.Conv1d(width, 2 * width, kernel, padding=kernel // 2) for _ in range(2))
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Pool the valid frames to (B, D)."""
        padding_BT1 = ~mask_BT.unsqueeze(-1)
        hidden_BTD = self.frames(hidden_BTD).masked_fill(padding_BT1, 0)
        for convolution in self.convolutions:
            gated_BTD = nn.functional.glu(convolution(hidden_BTD.transpose(1, 2)), dim=1).transpose(1, 2)
            hidden_BTD = (hidden_BTD + self.dropout(gated_BTD)).masked_fill(padding_BT1, 0)
        return masked_mean(self.project(hidden_BTD + self.dropout(self._attend(hidden_BTD, mask_BT))), mask_BT)

    def _attend(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        def split(projected_BTD: Tensor) -> Tensor:
            return projected_BTD.unflatten(2, (self._heads, -1)).transpose(1, 2)

        mixed_BHTD = nn.functional.scaled_dot_product_attention(
            split(self.query(hidden_BTD)),
            split(self.key(hidden_BTD)),
            split(self.value(hidden_BTD)),
            attn_mask=mask_BT[:, None, None, :],
            dropout_p=self._dropout if self.training else 0.0,
            scale=hidden_BTD.shape[-1] ** -0.5,
        )
        return self.mix(mixed_BHTD.transpose(1, 2).flatten(2))
