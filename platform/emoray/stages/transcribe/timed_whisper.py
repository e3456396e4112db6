"""transformers' Whisper with the work that its own word times cost and nobody needs left out.

Asked for word times, `generate` sets the whole network to eager attention and keeps the attention of every head in
every layer, all probabilities and the key-value caches, copied row by row to main memory: hundreds of MiB a clip. Here
only the alignment heads' layers attend eagerly, only those heads are kept, and the rest of the network runs on fused
kernels. The times are the same: dynamic time warping of the heads' attention (Radford et al. 2022, as in `generate`).
Shape legend: B clips, H alignment heads, T tokens, S positions of the encoder (20 ms each).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.models.whisper.generation_whisper import _median_filter

from emoray.stages.model_files.lean_transformers import transformers

POSITION_S = 0.02
FRAMES_PER_POSITION = 2
BOTH, UP, LEFT = 0, 1, 2


class TimedWhisper(transformers.WhisperForConditionalGeneration):
    """A Whisper whose `generate` gives token times cheaply, once `prepare_alignment` was called.

    Attributes:
        clip_frames: Mel frames of each clip of the batch without padding; what lies behind them is not decoded.
    """

    clip_frames: Sequence[int] = ()

    def prepare_alignment(self) -> bool:
        """Choose how each layer attends.

        Returns:
            Whether there are alignment heads. A smaller decoder (distil-whisper's) may name heads of layers that it no
            longer has: that counts as none.
        """
        named = getattr(self.generation_config, "alignment_heads", None) or []
        layers = self.model.decoder.layers
        self._heads = [(int(layer), int(head)) for layer, head in named]
        if any(layer >= len(layers) or head >= self.config.decoder_attention_heads for layer, head in self._heads):
            self._heads = []
        eager, fused = copy.copy(self.config), copy.copy(self.config)
        eager._attn_implementation, fused._attn_implementation = "eager", "sdpa"
        # `generate` sets the shared configuration to eager: the parts that are not read must not see that.
        for part in (self.model.encoder, self.model.decoder):
            part.config = fused
            for module in part.modules():
                if hasattr(module, "is_causal"):
                    module.config = fused
        self._attention: dict[int, list[Tensor]] = {}
        for number in sorted({layer for layer, _ in self._heads}):
            attention = layers[number].encoder_attn
            attention.config = eager
            attention.register_forward_hook(functools.partial(self._keep, number))
        return bool(self._heads)

    @contextlib.contextmanager
    def encoding_once(self) -> Iterator[None]:
        """Within the context, features that were encoded last are not encoded again: language, then transcript."""
        encoder = self.model.encoder
        plain = encoder.forward
        latest: list[tuple[Tensor, Any]] = []

        @functools.wraps(plain)
        def remembering(input_features: Tensor, **given: Any) -> Any:
            if not latest or not torch.equal(latest[0][0], input_features):
                latest[:] = [(input_features, plain(input_features, **given))]
            return copy.copy(latest[0][1])

        encoder.forward = remembering
        try:
            yield
        finally:
            del encoder.forward

    def generate_with_fallback(self, **given: Any) -> Any:
        """One pass over up to 30 s; forgets the attention of the pass before."""
        self._attention.clear()
        return super().generate_with_fallback(**given)

    def _keep(self, number: int, _module: Any, _given: Any, output: tuple[Tensor, Tensor]) -> None:
        heads = [head for layer, head in self._heads if layer == number]
        self._attention.setdefault(number, []).append(output[1][:, heads])

    @staticmethod
    def _set_return_outputs(
        return_dict_in_generate: Any, return_token_timestamps: Any, logprob_threshold: Any, generation_config: Any
    ) -> Any:
        wanted = transformers.WhisperForConditionalGeneration._set_return_outputs(
            return_dict_in_generate, return_token_timestamps, logprob_threshold, generation_config
        )
        if return_token_timestamps:
            generation_config.output_attentions = generation_config.output_scores = False
        return wanted

    def _postprocess_outputs(self, seek_outputs: Any, **given: Any) -> Any:
        if not given["return_token_timestamps"]:
            return super()._postprocess_outputs(seek_outputs=seek_outputs, **given)
        prompt = given["decoder_input_ids"].shape[-1]
        frames_B = (given["generation_config"].num_frames - given["seek"])[given["batch_idx_map"]].tolist()
        weights_BHTS = self._weights()[:, :, prompt:]
        rows = []
        for sequence, weights_HTS, frames in zip(seek_outputs.sequences, weights_BHTS, frames_B, strict=True):
            times_T = token_times(weights_HTS[..., : frames // FRAMES_PER_POSITION], self.config.median_filter_width)
            # None for the prompt; the last token, for which there is no attention, begins with the one before it.
            times = np.concatenate([np.zeros(prompt), times_T, times_T[-1:]]) if len(times_T) else np.zeros(prompt + 1)
            rows.append({"sequences": sequence.cpu(), "token_timestamps": torch.from_numpy(times.astype(np.float32))})
        return seek_outputs.sequences[:, prompt:], rows

    def _weights(self) -> Tensor:
        """Attention of the alignment heads, in their order, (B, H, T, S)."""
        kept = {number: torch.cat(steps, dim=2) for number, steps in self._attention.items()}
        places: dict[int, Iterator[int]] = {number: itertools.count() for number in kept}
        return torch.stack([kept[layer][:, next(places[layer])] for layer, _ in self._heads], dim=1).float()

    def _retrieve_segment(self, **given: Any) -> Any:
        segments, offset = super()._retrieve_segment(**given)
        clip = given["prev_idx"]
        begun = float(given["time_offset"][clip]) / given["time_precision_features"]
        behind = bool(self.clip_frames) and begun + float(offset) >= self.clip_frames[clip]
        # Clips are padded to the window: a pass over nothing but padding would cost as much as any other.
        return segments, given["seek_num_frames"][clip] if behind else offset


def token_times(weights_HTS: Tensor, median_width: int) -> npt.NDArray[np.float64]:
    """Where each token begins, in seconds.

    Args:
        weights_HTS: Cross-attention of the alignment heads, the clip's positions only.
        median_width: Of the filter along the positions, odd.

    Returns:
        (T,).
    """
    if not weights_HTS.shape[1] or not weights_HTS.shape[2]:
        return np.zeros(weights_HTS.shape[1])
    deviation, mean = torch.std_mean(weights_HTS, dim=-2, keepdim=True, unbiased=False)
    matrix_TS = _median_filter((weights_HTS - mean) / deviation, median_width).mean(dim=0)
    token_of_step, position_of_step = warp(-matrix_TS.cpu().double().numpy())
    begins = np.pad(np.diff(token_of_step), (1, 0), constant_values=1).astype(bool)
    return position_of_step[begins] * POSITION_S


def warp(cost_TS: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Dynamic time warping, diagonal by diagonal: the path as `_dynamic_time_warping` of transformers finds it.

    Args:
        cost_TS: What it costs to be at a token and a position.

    Returns:
        Token and position of each step.
    """
    tokens, positions = cost_TS.shape
    total = np.full((tokens + 1, positions + 1), np.inf, np.float32)
    total[0, 0] = 0.0
    move = np.full((tokens + 1, positions + 1), LEFT, np.int8)
    for diagonal in range(2, tokens + positions + 1):
        row = np.arange(max(1, diagonal - positions), min(tokens, diagonal - 1) + 1)
        column = diagonal - row
        both, up, left = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        is_both, is_up = (both < up) & (both < left), (up < both) & (up < left)
        move[row, column] = np.where(is_both, BOTH, np.where(is_up, UP, LEFT))
        total[row, column] = cost_TS[row - 1, column - 1] + np.where(is_both, both, np.where(is_up, up, left))
    move[:, 0] = UP
    move[0, :] = LEFT
    path = []
    row, column = tokens, positions
    while row > 0 or column > 0:
        path.append((row - 1, column - 1))
        step = move[row, column]
        row, column = row - (step != LEFT), column - (step != UP)
    found = np.array(path[::-1])
    return found[:, 0], found[:, 1]
