"""A frozen Hugging Face text encoder: token states and their spans in the text."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from emoray.stages.model_files.lean_transformers import transformers
from emoray.stages.model_files.weights import model_folder

# Shapes: B batch, L tokens, E text width.

disable_progress_bar()  # a bar per loaded model would be in every worker's log, and in the job's own progress


class TextEncoder:
    """Encoder (`minilm`, a folder, or a Hugging Face name) and its fast tokenizer, in evaluation mode, fp32.

    `device` is `auto`, `cpu` or `cuda`; longer texts than `max_tokens` are cut.
    """

    def __init__(self, model: str, device: str, max_tokens: int) -> None:
        folder = model_folder(model)
        self.device = (
            "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
        )
        self.max_tokens = max_tokens
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
        self._network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(self.device)
        self.width: int = self._network.config.hidden_size

    def states(self, texts: Sequence[str], batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode texts, in batches of similar length.

        Neither batch nor padding changes a text's result beyond rounding.

        Returns:
            Per text: states float32 (L, E) of its tokens, special ones included, and their character spans int (L, 2),
            (-1, -1) for special tokens.
        """
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_tokens,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(texts)), key=lambda index: (lengths[index], index))
        found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(texts)
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
        for start in range(0, len(order), batch_size):
            group = order[start : start + batch_size]
            batch = self._tokenizer.pad(
                {name: [encoded[name][index] for index in group] for name in names}, return_tensors="pt"
            ).to(self.device)
            with torch.inference_mode():
                states_BLE = self._network(**batch).last_hidden_state.float().cpu().numpy()
            for position, index in enumerate(group):
                spans = np.array(encoded["offset_mapping"][index], np.int64).reshape(-1, 2)
                spans[np.array(encoded["special_tokens_mask"][index], bool)] = -1
                own = batch["attention_mask"][position].cpu().numpy().astype(bool)
                found[index] = (states_BLE[position][own], spans)
        return [item for item in found if item is not None]


@functools.lru_cache(maxsize=2)
def text_encoder(model: str, device: str, max_tokens: int) -> TextEncoder:
    """This process's copy of an encoder, shared by both embedding stages.

    Two are cached, so that a service can load a new version beside the old.
    """
    return TextEncoder(model, device, max_tokens)


def masked_mean(states_LE: np.ndarray) -> np.ndarray:
    """Mean of all of a text's token states, float32 (E,): the attention-masked mean pooling of docs/models.md."""
    return states_LE.mean(axis=0, dtype=np.float32)


def span_mean(states_LE: np.ndarray, spans_L2: np.ndarray, wanted: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """Mean of the states of the tokens that overlap any of the wanted character spans; None if none does."""
    starts_L, ends_L = spans_L2[:, 0], spans_L2[:, 1]
    chosen_L = np.zeros(len(spans_L2), bool)
    for start, end in wanted:
        chosen_L |= (starts_L < end) & (ends_L > start) & (starts_L >= 0)
    return states_LE[chosen_L].mean(axis=0, dtype=np.float32) if chosen_L.any() else None
