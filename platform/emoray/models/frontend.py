"""The part of an acoustic encoder that is not learned: from samples to the features of a training set.

Shapes: S samples, T frames, F features, M measures = 2F.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from emoray.audio import moonshine
from emoray.audio.io import AUDIO_HZ
from emoray.audio.pieces import cut_into_pieces
from emoray.digest import digest
from emoray.errors import ConfigError
from emoray.models.config import MelConfig


class Frontend(ABC):
    """Features of a clip; cheap to pickle.

    Attributes:
        width: Features per frame F.
        frame_hz: Frames per second.
        mels: How many of a frame's features are log-mels: its last ones, in order of frequency.
    """

    width: int
    frame_hz: float
    mels: int

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Everything that the features depend on, as JSON values (part of the training set's hash)."""

    @abstractmethod
    def features(self, samples: np.ndarray) -> np.ndarray:
        """Features (T, F), float32, of mono samples (S,) at 16 kHz."""

    def packed(self, samples: np.ndarray) -> np.ndarray:
        """Features (T, F) as training sets hold them, float16: offline and online scores rest on the same numbers."""
        return np.ascontiguousarray(self.features(samples), dtype=np.float16)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the features depend on."""
        return digest(self.options())


#: Added to a deviation, so that a constant feature has a logarithm.
SMALLEST_DEVIATION = 1e-2


def clip_measures(features_TF: np.ndarray) -> np.ndarray:
    """Measures (M,) of a clip, float32: the mean of each feature, and the logarithm of its deviation over time."""
    features_TF = features_TF.astype(np.float32)
    return np.concatenate([features_TF.mean(0), np.log(features_TF.std(0) + SMALLEST_DEVIATION)])


def sound_means(frontend: Frontend, clips: Iterable[np.ndarray]) -> dict[str, Any]:
    """What `SpeakerNorms` asks of a speaker, {clips, measures: means (M,)}, from the samples of enrolment clips."""
    measures = [clip_measures(frontend.packed(samples)) for samples in clips]
    return {"clips": len(measures), "measures": np.mean(measures, axis=0).tolist()}


class LogMelFrontend(Frontend):
    """Log-mels on a fixed scale, centred frames, so that T = S // hop + 1."""

    def __init__(self, config: MelConfig) -> None:
        self._config = config
        self._hop = round(config.hop_s * AUDIO_HZ)
        self._window = round(config.window_s * AUDIO_HZ)
        self.width = self.mels = config.mels
        self.frame_hz = AUDIO_HZ / self._hop

    def options(self) -> dict[str, Any]:
        """See `Frontend.options`."""
        return {"kind": "logmel", **{name: getattr(self._config, name) for name in MelConfig.model_fields}}

    def features(self, samples: np.ndarray) -> np.ndarray:
        """See `Frontend.features`."""
        config = self._config
        size = 1 << (self._window - 1).bit_length()
        window, filters_FM = _filters(self._window, size, config.mels, config.low_hz, config.high_hz)
        # One frame around every hop's centre: zeros, not reflection, so that a clip shorter than a window works too.
        padded = np.pad(samples.astype(np.float32, copy=False), (self._window // 2, self._window))
        frames = np.lib.stride_tricks.sliding_window_view(padded, self._window)[:: self._hop][
            : len(samples) // self._hop + 1
        ]
        power = np.abs(np.fft.rfft(frames * window, n=size)).astype(np.float32) ** 2
        log_mel = np.log(power @ filters_FM + config.floor)
        return ((log_mel - config.center) / config.scale).astype(np.float32)


class WaveformFrontend(Frontend):
    """The waveform itself (F = 1), normalised as in the checkpoint's training.

    `normalise`: zero mean and unit variance per clip (the feature extractor's `do_normalize`), or the mean and the
    standard deviation to normalise every clip with.
    """

    width = 1
    frame_hz = float(AUDIO_HZ)
    mels = 0

    def __init__(self, normalise: bool | Sequence[float]) -> None:
        self._normalise = normalise if isinstance(normalise, bool) else list(normalise)

    def options(self) -> dict[str, Any]:
        """See `Frontend.options`."""
        return {"kind": "waveform", "normalise": self._normalise}

    def features(self, samples: np.ndarray) -> np.ndarray:
        """See `Frontend.features`."""
        samples = samples.astype(np.float32, copy=False)
        if isinstance(self._normalise, list):
            mean, deviation = self._normalise
            samples = ((samples - mean) / deviation).astype(np.float32)
        elif self._normalise:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return samples[:, None]


#: Encoder's states that are averaged into one frame: what a clip's statistics tell does not need 42 of them a second.
STATES_PER_FRAME = 2


class MoonshineFrontend(Frontend):
    """States of inner layers of Moonshine's encoder, and beside them a clip's log-mels, if wanted.

    The last layer knows words, the inner ones still know the voice (docs/decisions/0035). Two states make a frame, and
    each log-mel is the mean over the same time. A clip beyond 30 s is heard in pieces. The encoder is opened where the
    first clip is heard, so that the front-end can be sent to another process.

    Attributes:
        revision: Hash of the encoder's file and of the layers that are read.

    Raises:
        ConfigError: `revision` is of another encoder than the installed one.
        MissingExtraError: The package that carries the encoder is not installed.
    """

    frame_hz = AUDIO_HZ / moonshine.HOP_SAMPLES / STATES_PER_FRAME

    def __init__(self, revision: str | None, mel: MelConfig | None) -> None:
        here = digest([moonshine.revision((moonshine.ENCODER,)), list(moonshine.INNER_LAYERS)])
        if revision not in (None, here):
            raise ConfigError(
                f"the model was trained on Moonshine's encoder {revision}, the installed one is {here}",
                where="model.encoder.moonshine.revision",
                remedy=f"Install the version of {moonshine.PACKAGE} that it was trained with, or train it again",
            )
        self.revision = here
        self._mel = None if mel is None else LogMelFrontend(mel)
        self.mels = 0 if mel is None else mel.mels
        self.width = moonshine.INNER_WIDTH + self.mels

    def options(self) -> dict[str, Any]:
        """See `Frontend.options`."""
        mel = None if self._mel is None else self._mel.options()
        return {"kind": "moonshine", "revision": self.revision, "states": STATES_PER_FRAME, "mel": mel}

    def features(self, samples: np.ndarray) -> np.ndarray:
        """See `Frontend.features`."""
        parts = []
        for piece in cut_into_pieces(samples, moonshine.WINDOW_S):
            states_TD = moonshine.inner_states(moonshine.padded(piece))
            frames = -(-len(states_TD) // STATES_PER_FRAME)
            found = [states_TD] if self._mel is None else [states_TD, self._mel.features(piece)]
            parts.append(np.concatenate([_average(part, frames) for part in found], axis=1))
        return np.concatenate(parts)


def _average(frames_NF: np.ndarray, count: int) -> np.ndarray:
    """Means of `count` stretches of equal length (they overlap where they share a frame), (count, F)."""
    edges = np.arange(count + 1) * len(frames_NF) / count
    starts, ends = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    sums_NF = np.concatenate([np.zeros((1, frames_NF.shape[1])), frames_NF.cumsum(0, dtype=np.float64)])
    return ((sums_NF[ends] - sums_NF[starts]) / (ends - starts)[:, None]).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _filters(window: int, size: int, mels: int, low_hz: float, high_hz: float) -> tuple[np.ndarray, np.ndarray]:
    from transformers.audio_utils import (
        mel_filter_bank,  # over a second to import, and every command imports this module
    )

    bank = mel_filter_bank(size // 2 + 1, mels, low_hz, high_hz, AUDIO_HZ, norm="slaney", mel_scale="slaney")
    return np.hanning(window).astype(np.float32), bank.astype(np.float32)
