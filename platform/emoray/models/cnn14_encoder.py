"""The CNN14 encoder over log-mels, with padding masked throughout.

Shapes: B batch, T frames in, U frames out, F mel bands, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emoray.errors import ConfigError
from emoray.models.batch import frame_mask
from emoray.models.config import Cnn14Config

#: Channels of the blocks at width 1.
CHANNELS = (64, 128, 256, 512, 1024, 2048)

#: Frames that five poolings by two reduce to one.
MULTIPLE = 2 ** (len(CHANNELS) - 1)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over valid frames: padding enters neither the statistics nor their running values.

    In training the statistics are those of the micro-batch. If batches are accumulated, the Learner runs each
    micro-batch twice; only the pass with a gradient updates the running values.
    """

    #: As in `torch.nn.BatchNorm2d`.
    MOMENTUM, EPSILON = 0.1, 1e-5

    mean_C: Tensor
    variance_C: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight_C = nn.Parameter(torch.ones(channels))
        self.bias_C = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("variance_C", torch.ones(channels))

    def forward(self, hidden_BCTF: Tensor, mask_BT: Tensor) -> Tensor:
        """Normalise; values in the padding are then undefined."""
        if not self.training:
            return nn.functional.batch_norm(
                hidden_BCTF, self.mean_C, self.variance_C, self.weight_C, self.bias_C, eps=self.EPSILON
            )
        # Products, not masked_fill, whose broadcast took an eighth of CNN14's time on a CPU.
        valid_B1T1, count = mask_BT[:, None, :, None].float(), mask_BT.sum() * hidden_BCTF.shape[3]
        hidden_BCTF = hidden_BCTF.float()
        mean_C = (hidden_BCTF * valid_B1T1).sum((0, 2, 3)) / count
        residual_BCTF = (hidden_BCTF - mean_C[:, None, None]) * valid_B1T1
        variance_C = residual_BCTF.square().sum((0, 2, 3)) / count
        if torch.is_grad_enabled():
            self.mean_C.lerp_(mean_C.detach(), self.MOMENTUM)
            self.variance_C.lerp_(variance_C.detach() * count / (count - 1).clamp_min(1), self.MOMENTUM)
        scale_C = self.weight_C * (variance_C + self.EPSILON).rsqrt()
        return torch.addcmul(self.bias_C[:, None, None], residual_BCTF, scale_C[:, None, None])


class ConvBlock(nn.Module):
    """[3 × 3 convolution, batch normalisation, ReLU] twice, masked after each."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, after, 3, padding=1, bias=False) for channels in (before, after)]
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(MaskedBatchNorm(after) for _ in range(2))

    def forward(self, hidden_BCTF: Tensor, mask_BT: Tensor) -> Tensor:
        """Convolve frames that are zero beyond each clip's end, as is the result."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden_BCTF = norm(convolution(hidden_BCTF), mask_BT).relu() * mask_BT[:, None, :, None]
        return hidden_BCTF


class Cnn14Encoder(nn.Module):
    """CNN14 of PANNs (arXiv 1912.10211) [code], trained from scratch, at any width.

    Batch normalisation over the mels; six blocks, average pooling by 2 × 2 after all but the last, dropout; mean over
    the mels. Frames are padded to a multiple of 32 with zeros, and everything beyond a clip's end is zero after every
    convolution, so that a clip has the same result alone and padded in a batch.

    Attributes:
        channels: Channels C of each block.
        width: Width D of the hidden states, the last block's channels.

    Raises:
        ConfigError: There are too few mels for five poolings.
    """

    def __init__(self, config: Cnn14Config) -> None:
        super().__init__()
        if config.mels < MULTIPLE:
            what = f"{config.mels} mel bands are too few to be pooled five times"
            raise ConfigError(what, where="model.encoder.cnn14.mels", remedy=f"Use {MULTIPLE} or more")
        self.channels = tuple(max(1, round(config.width * channels)) for channels in CHANNELS)
        self.width = self.channels[-1]
        self.norm = MaskedBatchNorm(config.mels)
        self.blocks = nn.ModuleList(
            ConvBlock(before, after) for before, after in zip((1, *self.channels), self.channels, strict=False)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, features_BTF: Tensor, lengths_B: Tensor, shifts: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode log-mels of clips with `lengths_B` valid frames.

        `shifts` are vectors (B, C), one per block, added to its pooled output at every frame and mel (conditioning).

        Returns:
            Hidden states (B, U, D) with U = ⌈T / 32⌉, and the mask (B, U) of the valid ones.
        """
        features_BTF = nn.functional.pad(features_BTF, (0, 0, 0, -features_BTF.shape[1] % MULTIPLE))
        mask_BT = frame_mask(lengths_B, features_BTF.shape[1])
        hidden_BCTF = self.norm(features_BTF.transpose(1, 2).unsqueeze(3), mask_BT).transpose(1, 3)
        hidden_BCTF = hidden_BCTF.masked_fill(~mask_BT[:, None, :, None], 0)
        for number, block in enumerate(self.blocks):
            hidden_BCTF = block(hidden_BCTF, mask_BT)
            if number + 1 < len(self.blocks):
                hidden_BCTF = nn.functional.avg_pool2d(hidden_BCTF, 2)
                lengths_B = (lengths_B + 1) // 2
                mask_BT = frame_mask(lengths_B, hidden_BCTF.shape[2])
            if shifts is not None:
                hidden_BCTF = hidden_BCTF + shifts[number][:, :, None, None]
            hidden_BCTF = self.dropout(hidden_BCTF) * mask_BT[:, None, :, None]
        return hidden_BCTF.mean(3).transpose(1, 2), mask_BT
