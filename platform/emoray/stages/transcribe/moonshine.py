"""Moonshine tiny, an offline recogniser of English, greedy.

Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice Commands", arXiv 2410.15608. The
package `moonshine-voice` (MIT) carries the weights as ONNX Runtime files. Only those are used: its own code, made for
microphones, is never imported. Shape legend: S samples, T frames of the encoder, D its width, V vocabulary.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.audio.io import AUDIO_HZ
from emoray.audio.pieces import cut_into_pieces
from emoray.errors import ConfigError, MissingExtraError

LANGUAGE = "en"
PACKAGE = "moonshine-voice"
FILES = ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin")
#: What it was trained with is no longer than this.
WINDOW_S = 30.0
#: Shorter sound does not fill a frame of the encoder: silence is put behind it.
SHORTEST_S = 0.1
#: Longest transcript, as the model's authors bound it: more tokens per second than anybody says are a loop.
TOKENS_PER_S = 6.5
BEGIN, END = 1, 2
HEADS, HEAD_WIDTH = 8, 36


class Moonshine:
    """The recogniser, one clip at a time: no result depends on what else is recognised."""

    def __init__(self) -> None:
        import onnxruntime

        folder = model_folder()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])
        options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self._encoder = onnxruntime.InferenceSession(folder / FILES[0], options, providers=providers)
        self._decoder = onnxruntime.InferenceSession(folder / FILES[1], options, providers=providers)
        self._tokens = read_tokens((folder / FILES[2]).read_bytes())
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._past = [given.name for given in self._decoder.get_inputs() if given.name.startswith("past_key_values.")]

    def recognise(self, samples: npt.NDArray[np.float32]) -> tuple[str, float | None]:
        """Transcribe float32 (S,) samples, mono, 16 kHz; a clip beyond 30 s is heard in pieces.

        Returns:
            The text, empty where nothing was understood, and the mean probability of its tokens (None if there are
            none).
        """
        texts, logarithms = [], []
        for piece in cut_into_pieces(samples, WINDOW_S):
            tokens, logs = self._decode(piece)
            texts.append(self._text(tokens))
            logarithms += logs
        confidence = math.exp(sum(logarithms) / len(logarithms)) if logarithms else None
        return " ".join(" ".join(texts).split()), confidence

    def _decode(self, samples_S: npt.NDArray[np.float32]) -> tuple[list[int], list[float]]:
        """Tokens, and the logarithm of each one's probability, that of the end included."""
        lacking = max(0, int(SHORTEST_S * AUDIO_HZ) - len(samples_S))
        sound_1S = np.pad(samples_S, (0, lacking))[None].astype(np.float32)
        mask_1S = np.ones(sound_1S.shape, np.int64)
        states_1TD = self._encoder.run(None, {"input_values": sound_1S, "attention_mask": mask_1S})[0]
        given: dict[str, Any] = {
            "encoder_hidden_states": states_1TD,
            "encoder_attention_mask": mask_1S,  # of samples here too: the decoder takes one in 384
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


def model_folder() -> Path:
    """Where the package keeps the model. The package itself is not imported.

    Raises:
        MissingExtraError: It is not installed.
        ConfigError: This version of it has no model.
    """
    found = util.find_spec("moonshine_voice")
    if found is None or found.origin is None:
        raise MissingExtraError(
            f"Moonshine needs the package {PACKAGE}", remedy=f"Install it: pip install {PACKAGE}==0.0.73"
        )
    folder = Path(found.origin).parent / "assets" / "tiny-en"
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"the installed {PACKAGE} does not carry {', '.join(missing)}",
            where=str(folder),
            remedy=f"Versions from 0.1.0 download their models: install {PACKAGE}==0.0.73",
        )
    return folder


@functools.cache
def revision() -> str:
    """Hash of the model's files."""
    digest = hashlib.sha256()
    for name in FILES:
        with (model_folder() / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@functools.cache
def moonshine() -> Moonshine:
    """This process's recogniser."""
    return Moonshine()
