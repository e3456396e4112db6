"""Moonshine tiny, an offline recogniser of English, greedy. Its files and its encoder are in `emoray.audio.moonshine`.

Shape legend: S samples, T frames of the encoder, D its width, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.audio import moonshine as files
from emoray.audio.io import AUDIO_HZ
from emoray.audio.pieces import cut_into_pieces

LANGUAGE = "en"
#: Longest transcript, as the model's authors bound it: more tokens per second than anybody says are a loop.
TOKENS_PER_S = 6.5
BEGIN, END = 1, 2
HEADS, HEAD_WIDTH = 8, 36


class Moonshine:
    """The recogniser, one clip at a time: no result depends on what else is recognised."""

    def __init__(self) -> None:
        self._decoder = files.session(files.model_folder() / files.DECODER)
        self._tokens = read_tokens((files.model_folder() / files.TOKENIZER).read_bytes())
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._past = [given.name for given in self._decoder.get_inputs() if given.name.startswith("past_key_values.")]

    def recognise(self, samples: npt.NDArray[np.float32]) -> tuple[str, float | None]:
        """Transcribe float32 (S,) samples, mono, 16 kHz; a clip beyond 30 s is heard in pieces.

        Returns:
            The text, empty where nothing was understood, and the mean probability of its tokens (None if there are
            none).
        """
        texts, logarithms = [], []
        for piece in cut_into_pieces(samples, files.WINDOW_S):
            tokens, logs = self._decode(piece)
            texts.append(self._text(tokens))
            logarithms += logs
        confidence = math.exp(sum(logarithms) / len(logarithms)) if logarithms else None
        return " ".join(" ".join(texts).split()), confidence

    def _decode(self, samples_S: npt.NDArray[np.float32]) -> tuple[list[int], list[float]]:
        """Tokens, and the logarithm of each one's probability, that of the end included."""
        sound_1S = files.padded(samples_S)
        states_1TD = files.encode(sound_1S)
        given: dict[str, Any] = {
            "encoder_hidden_states": states_1TD,
            # Of samples here too: the decoder takes one in 384.
            "encoder_attention_mask": np.ones(sound_1S.shape, np.int64),
            **{name: np.zeros((1, HEADS, 0, HEAD_WIDTH), np.float32) for name in self._past},
        }
        tokens: list[int] = []
        logarithms: list[float] = []
        token = BEGIN
        for step in range(math.ceil(sound_1S.shape[1] / AUDIO_HZ * TOKENS_PER_S) + 1):
            given |= {"input_ids": np.array([[token]], np.int64), "use_cache_branch": np.array([step > 0])}
            made = dict(zip(self._outputs, self._decoder.run(None, given), strict=True))
            logits_V = made["logits"][0, -1].astype(np.float64)
            token = int(logits_V.argmax())
            logarithms.append(-float(np.log(np.exp(logits_V - logits_V[token]).sum())))
            if token == END:
                break
            tokens.append(token)
            for name in self._past:
                # What the decoder remembers of the encoder does not change after the first step.
                if step == 0 or ".decoder." in name:
                    given[name] = made[name.replace("past_key_values", "present")]
        return tokens, logarithms if tokens else []

    def _text(self, tokens: list[int]) -> str:
        raw = b"".join(self._tokens[token] for token in tokens)
        return raw.decode("utf-8", errors="replace").replace("▁", " ")


def read_tokens(raw: bytes) -> list[bytes]:
    """The vocabulary: each entry's length in one byte, or in two from 128 on (low seven bits first), then its bytes.

    Control tokens (<s>, <<ST_1>> …) say nothing and come back empty.
    """
    tokens = []
    place = 0
    while place < len(raw):
        length = raw[place]
        place += 1
        if length >= 128:
            length += raw[place] * 128 - 128
            place += 1
        entry = raw[place : place + length]
        place += length
        tokens.append(b"" if entry.startswith(b"<") and entry.endswith(b">") and len(entry) > 2 else entry)
    return tokens


@functools.cache
def moonshine() -> Moonshine:
    """This process's recogniser."""
    return Moonshine()
