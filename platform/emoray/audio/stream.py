"""Read a recording of any length block by block, with one block in memory. Shape legend: S samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emoray.audio.io import AUDIO_HZ, opened, sound_file, truncated
from emoray.errors import AudioError

#: Length of a block; at 48 kHz in stereo it takes 11 MB.
BLOCK_S = 30.0


def stream(
    source: str,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Decode a recording (local path or fsspec address), or a span of it, to 16 kHz mono, block by block.

    The blocks together equal `emoray.audio.io.decode` of the same span, up to the rounding of the resampler.

    Yields:
        float32 (S,), of any length.

    Raises:
        AudioError: `kind` is missing_file, empty_file, not_audio, truncated_audio or non_finite_samples.
        TransientError: The storage failed in a way that may be temporary.
    """
    with opened(source, source, storage_options, whole=False) as file, sound_file(file, source) as sound:
        hz = sound.samplerate
        first = min(round((start_s or 0.0) * hz), sound.frames)
        left = (sound.frames if end_s is None else min(round(end_s * hz), sound.frames)) - first
        resampler = None if hz == AUDIO_HZ else soxr.ResampleStream(hz, AUDIO_HZ, 1, dtype="float32")
        sound.seek(first)
        while left > 0:
            samples_SC = _block(sound, min(left, round(BLOCK_S * hz)), source)
            left -= len(samples_SC)
            mono_S = np.ascontiguousarray(samples_SC.mean(axis=1, dtype=np.float32))
            yield mono_S if resampler is None else resampler.resample_chunk(mono_S, last=left == 0)


def _block(sound: soundfile.SoundFile, samples: int, where: str) -> npt.NDArray[np.float32]:
    try:
        samples_SC = sound.read(samples, dtype="float32", always_2d=True)
        damage = "" if len(samples_SC) == samples else f"{samples - len(samples_SC)} samples are missing"
    except soundfile.LibsndfileError as error:
        damage = error.error_string.rstrip(".")
    if damage:
        at_s = sound.tell() / sound.samplerate
        raise truncated(f"audio is truncated or damaged at {at_s:.1f} s ({damage})", where)
    if not np.isfinite(samples_SC).all():
        raise AudioError(
            "samples are NaN or infinite", where=where, remedy="Write the file again", kind="non_finite_samples"
        )
    return samples_SC
