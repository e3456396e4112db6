"""Moonshine tiny's files, and its encoder: from sound to 41.7 vectors per second, of the last layer and of inner ones.

Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice Commands", arXiv 2410.15608. The
package `moonshine-voice` (MIT) carries the weights as ONNX Runtime files. Only those are used: its own code, made for
microphones, is never imported. Shape legend: S samples, T frames of the encoder, D its width.
"""

from __future__ import annotations

import functools
import hashlib
import os
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.audio.inner_states import with_outputs
from emoray.audio.io import AUDIO_HZ
from emoray.errors import ConfigError, MissingExtraError

PACKAGE = "moonshine-voice"
ENCODER, DECODER, TOKENIZER = FILES = ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin")
#: Width D of the encoder's vectors, and samples from one to the next.
WIDTH, HOP_SAMPLES = 288, 384
#: The encoder's output, and inside it the output of a layer (the first is 0).
LAST, LAYER = "last_hidden_state", "/layers.{}/Add_1_output_0"
#: Of the six layers those, counted from 1, whose states tell how something is said: they stand at thirds of the way.
INNER_LAYERS = (2, 4)
INNER_WIDTH = WIDTH * len(INNER_LAYERS)
#: What it was trained with is no longer than this.
WINDOW_S = 30.0
#: Shorter sound does not fill a frame of the encoder: silence is put behind it.
SHORTEST_S = 0.1


@functools.cache
def encoder() -> Any:
    """This process's session of the encoder; it may be called from several threads."""
    network = (model_folder() / ENCODER).read_bytes()
    return session(with_outputs(network, [LAST, *(LAYER.format(layer - 1) for layer in INNER_LAYERS)]))


def session(network: bytes | Path) -> Any:
    """A new ONNX Runtime session, on as many threads as `OMP_NUM_THREADS` says, by default one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def padded(samples_S: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Samples as float32, (1, S), with silence behind them where they are too short for a frame."""
    lacking = max(0, int(SHORTEST_S * AUDIO_HZ) - len(samples_S))
    return np.pad(samples_S, (0, lacking))[None].astype(np.float32)


def encode(sound_1S: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The encoder's last states (1, T, D) of `padded` sound of at most 30 s."""
    states_1TD: npt.NDArray[np.float32] = _run(sound_1S)[0]
    return states_1TD


def inner_states(sound_1S: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The states (T, L·D) of the L inner layers, side by side, each on the scale of a layer normalisation."""
    layers_LTD = np.concatenate(_run(sound_1S)[1:])
    centred_LTD = layers_LTD - layers_LTD.mean(-1, keepdims=True)
    normed_LTD = centred_LTD / np.sqrt(centred_LTD.var(-1, keepdims=True) + 1e-5)
    return np.concatenate(list(normed_LTD), axis=1)


def _run(sound_1S: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    outputs: list[npt.NDArray[np.float32]] = encoder().run(
        None, {"input_values": sound_1S, "attention_mask": np.ones(sound_1S.shape, np.int64)}
    )
    return outputs


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
def revision(names: tuple[str, ...] = FILES) -> str:
    """Hash of the model's files, or of some of them."""
    digest = hashlib.sha256()
    for name in names:
        with (model_folder() / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
