"""Degradations of a clip, for robustness curves: noise, codecs, speed. Samples are float32 (T,) at `AUDIO_HZ`."""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr

from emoray.audio.io import AUDIO_HZ
from emoray.errors import InputError

#: Codec → libsndfile's format and subtype, and the sampling rate that the codec is given.
CODECS = {
    "g711": ("WAV", "ULAW", 8000),
    "gsm": ("WAV", "GSM610", 8000),
    "opus": ("OGG", "OPUS", AUDIO_HZ),
    "mp3": ("MP3", "MPEG_LAYER_III", AUDIO_HZ),
}


def add_noise(samples_T: np.ndarray, snr_db: float, random: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise; `snr_db` is the power of the whole clip over that of the noise."""
    noise_rms = float(np.sqrt(np.mean(np.square(samples_T, dtype=np.float64)))) * 10 ** (-snr_db / 20)
    return (samples_T + noise_rms * random.standard_normal(len(samples_T))).astype(np.float32)


def through_codec(samples_T: np.ndarray, codec: str) -> np.ndarray:
    """Encode and decode, to as many samples.

    `codec` is one of `CODECS`: g711 (mu-law) and gsm (06.10) as in telephony, at 8 kHz; opus and mp3 at libsndfile's
    default rates.

    Raises:
        InputError: There is no such codec.
    """
    if codec not in CODECS:
        raise InputError(f"unknown codec {codec!r}", remedy=f"One of {', '.join(CODECS)}", kind="unknown_codec")
    kind, subtype, hz = CODECS[codec]
    # Lossy codecs overshoot: headroom keeps loud samples from being clipped.
    peak = max(1.0, 1.05 * float(np.abs(samples_T).max(initial=0.0)))
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(samples_T / peak, AUDIO_HZ, hz), hz, format=kind, subtype=subtype)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    back = soxr.resample(decoded, hz, AUDIO_HZ)[: len(samples_T)] * np.float32(peak)
    return np.pad(back, (0, len(samples_T) - len(back))).astype(np.float32)


def at_speed(samples_T: np.ndarray, factor: float) -> np.ndarray:
    """Play faster (`factor` above 1) or slower, like a tape: tempo, pitch and formants change together."""
    return np.asarray(soxr.resample(samples_T, AUDIO_HZ * factor, AUDIO_HZ), np.float32)
