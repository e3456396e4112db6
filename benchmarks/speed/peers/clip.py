"""A clip as 16 kHz mono, as every peer of P2 reads it: with soundfile and soxr, which we use too."""

from __future__ import annotations

import numpy as np
import soundfile
import soxr

HZ = 16_000


def read(path: str) -> np.ndarray:
    """Float32 samples of a file."""
    samples, hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    return mono if hz == HZ else soxr.resample(mono, hz, HZ)
