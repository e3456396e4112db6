"""Fundamental frequency and energy of a clip, frame by frame.

F0 by DIO with StoneMask refinement (Morise et al., "Fast and reliable F0 estimation method based on the period
extraction of vocal fold vibration", 2009; part of WORLD): about 6 ms per second of speech. Shape legend: S samples, T
frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyworld

from emoray.audio.io import AUDIO_HZ
from emoray.config import Section

#: Energy is measured over this many hops around a frame's centre.
WINDOW_HOPS = 3
#: Level of digital silence, to keep decibels finite.
ENERGY_FLOOR_DB = -100.0
#: DIO sometimes takes a harmonic or subharmonic for the fundamental in a whole voiced segment. Speakers do not jump so
#: far from their median for a whole segment; such segments count as unvoiced.
OCTAVE_ERROR_SEMITONES = 10.0


class ProsodyConfig(Section):
    """How prosody is measured.

    Attributes:
        hop_s: Distance between frames.
        f0_floor_hz: Lowest fundamental frequency of the search.
        f0_ceiling_hz: Highest.
    """

    hop_s: float
    f0_floor_hz: float
    f0_ceiling_hz: float


@dataclass(frozen=True)
class Prosody:
    """Prosody of a clip; frame t is centred at t · hop_s.

    Attributes:
        f0_hz: float32 (T,), 0 where unvoiced.
        energy_db: float32 (T,), dB relative to full scale.
    """

    f0_hz: npt.NDArray[np.float32]
    energy_db: npt.NDArray[np.float32]
    hop_s: float


def measure(samples: npt.NDArray[np.float32], config: ProsodyConfig) -> Prosody:
    """Measure F0 and energy of a 16 kHz mono waveform (S,), full scale 1.

    Returns:
        Prosody with T = floor(S / (16000 · hop_s)) + 1 frames.
    """
    samples_S = np.ascontiguousarray(samples, dtype=np.float64)
    rough_hz_T, times_T = pyworld.dio(
        samples_S,
        AUDIO_HZ,
        f0_floor=config.f0_floor_hz,
        f0_ceil=config.f0_ceiling_hz,
        frame_period=config.hop_s * 1000,
    )
    f0_hz_T = pyworld.stonemask(samples_S, rough_hz_T, times_T, AUDIO_HZ)
    return Prosody(
        f0_hz=_without_octave_errors(f0_hz_T).astype(np.float32),
        energy_db=_energy_db(samples_S, times_T, config.hop_s).astype(np.float32),
        hop_s=config.hop_s,
    )


def _without_octave_errors(f0_hz_T: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    voiced_T = f0_hz_T > 0
    if not voiced_T.any():
        return f0_hz_T
    semitones_T = 12 * np.log2(np.where(voiced_T, f0_hz_T, 1.0))
    middle = np.median(semitones_T[voiced_T])
    # A jump also separates two segments: a harmonic may start in the middle of a voiced sound.
    jumps_T = np.abs(np.diff(semitones_T, prepend=semitones_T[0])) > OCTAVE_ERROR_SEMITONES / 2
    starts = np.flatnonzero(np.diff(voiced_T, prepend=False) | (jumps_T & voiced_T))
    cleaned_T = f0_hz_T.copy()
    for start, end in zip(starts, [*starts[1:], len(f0_hz_T)], strict=True):
        segment = slice(start, end)
        if voiced_T[start] and abs(np.median(semitones_T[segment]) - middle) > OCTAVE_ERROR_SEMITONES:
            cleaned_T[segment] = 0.0
    return cleaned_T


def _energy_db(
    samples_S: npt.NDArray[np.float64], times_T: npt.NDArray[np.float64], hop_s: float
) -> npt.NDArray[np.float64]:
    """Mean power around each frame's centre, by differences of the running sum of squares."""
    running = np.concatenate([[0.0], np.cumsum(np.square(samples_S))])
    centres_T = np.rint(times_T * AUDIO_HZ).astype(np.int64)
    half = round(WINDOW_HOPS * hop_s * AUDIO_HZ / 2)
    first_T = np.clip(centres_T - half, 0, len(samples_S))
    last_T = np.clip(centres_T + half, 0, len(samples_S))
    power_T = (running[last_T] - running[first_T]) / np.maximum(last_T - first_T, 1)
    return np.maximum(10 * np.log10(np.maximum(power_T, 1e-20)), ENERGY_FLOOR_DB)
