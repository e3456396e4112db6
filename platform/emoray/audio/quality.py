"""How well a clip was recorded: loudness, flattened tops, noise under the speech. Shapes: S samples, N frames.

Loudness is integrated loudness by ITU-R BS.1770-4 / EBU R 128 (pyloudnorm), of the models' mono input. Signal-to-noise
is a ratio of energies: the power of frames that the voice activity network calls silence is the noise, that of its
speech frames is speech and noise together. Flattened tops are samples that stay at the clip's own extreme, which also
finds clipping that was turned down afterwards, in files at 16 kHz.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emoray.audio.activity import FRAME_S, ActivityConfig, runs, speech_frames
from emoray.audio.io import AUDIO_HZ
from emoray.config import Section

if TYPE_CHECKING:
    import pyloudnorm

#: Gating block of BS.1770: shorter clips have no integrated loudness.
BLOCK_S = 0.4
#: A sample within this share of the clip's extreme is at the extreme, and so many in a row are a flattened top. Natural
#: speech has none (0 of 24 EMO-DB clips). Resampling and lossy coding smooth them away.
AT_EXTREME = 0.99
FLAT_SAMPLES = 4
#: Minimum of silence to measure noise in, without the frames next to speech, which contain its echo.
MIN_NOISE_FRAMES = 3
GUARD_FRAMES = 2
#: Approximate power of the dither of 16-bit sound: silence is not quieter.
NOISE_FLOOR = 1e-10


class QualityConfig(Section):
    """The quality stage.

    Attributes:
        enabled: Measure every clip. If false, clips are measured only if a filter needs it.
        activity: When sound is speech.
    """

    enabled: bool
    activity: ActivityConfig


@dataclass(frozen=True)
class Quality:
    """Measures of a clip.

    Attributes:
        loudness_lufs: Integrated loudness; None below 0.4 s, or where no block is above −70 LUFS.
        flat_top_fraction: Share of the samples in flattened tops.
        snr_db: Signal-to-noise ratio; None without speech, or with less than 0.1 s of silence.
        speech_fraction: Share of the clip that is speech.
    """

    loudness_lufs: float | None
    flat_top_fraction: float
    snr_db: float | None
    speech_s: float
    speech_fraction: float


def measure(samples_S: npt.NDArray[np.float32], config: QualityConfig) -> Quality:
    """Measure a mono clip at 16 kHz, full scale 1."""
    from emoray.audio.silero import SpeechDetector

    is_speech_N = speech_frames(SpeechDetector().probabilities(samples_S), config.activity)
    duration_s = len(samples_S) / AUDIO_HZ
    speech_s = min(float(is_speech_N.sum()) * FRAME_S, duration_s)
    return Quality(
        loudness_lufs=loudness_lufs(samples_S),
        flat_top_fraction=flat_top_fraction(samples_S),
        snr_db=snr_db(samples_S, is_speech_N),
        speech_s=speech_s,
        speech_fraction=speech_s / duration_s if duration_s else 0.0,
    )


def loudness_lufs(samples_S: npt.NDArray[np.float32]) -> float | None:
    """Integrated loudness (ITU-R BS.1770-4) of a mono clip at 16 kHz; None if the standard defines none."""
    if len(samples_S) < BLOCK_S * AUDIO_HZ:
        return None
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", category=RuntimeWarning)  # the mean of no block is −inf
        loudness = float(_meter().integrated_loudness(samples_S.astype(np.float64)))
    return loudness if np.isfinite(loudness) else None


def flat_top_fraction(samples_S: npt.NDArray[np.float32]) -> float:
    """Share of the samples in runs at the clip's highest or lowest value; 0 for digital silence."""
    if len(samples_S) == 0 or not np.any(samples_S):
        return 0.0
    flat = 0
    for extreme in (samples_S.max(), samples_S.min()):
        at_extreme_S = samples_S >= AT_EXTREME * extreme if extreme > 0 else samples_S <= AT_EXTREME * extreme
        flat += sum(end - start for start, end in runs(at_extreme_S) if end - start >= FLAT_SAMPLES)
    return flat / len(samples_S)


def snr_db(samples_S: npt.NDArray[np.float32], is_speech_N: npt.NDArray[np.bool_]) -> float | None:
    """Signal-to-noise ratio of a mono clip at 16 kHz, from the power of its speech frames and of its silent ones.

    Frames have 512 samples; the last may be shorter.
    """
    frame = round(FRAME_S * AUDIO_HZ)
    complete = len(samples_S) // frame
    if complete < MIN_NOISE_FRAMES + GUARD_FRAMES + 1:
        return None
    power_N = np.mean(np.square(samples_S[: complete * frame].reshape(complete, frame), dtype=np.float64), axis=1)
    speech_N = is_speech_N[:complete]
    near_N = np.convolve(speech_N, np.ones(2 * GUARD_FRAMES + 1), mode="same") > 0
    if not speech_N.any() or (~near_N).sum() < MIN_NOISE_FRAMES:
        return None
    noise = max(float(power_N[~near_N].mean()), NOISE_FLOOR)
    signal = max(float(power_N[speech_N].mean()) - noise, NOISE_FLOOR)
    return float(10 * np.log10(signal / noise))


@functools.cache
def _meter() -> pyloudnorm.Meter:
    import pyloudnorm

    return pyloudnorm.Meter(AUDIO_HZ, block_size=BLOCK_S)
