"""Decode a clip from bytes, a local file or an object store to 16 kHz mono; errors say exactly why it fails.

libsndfile reads the container (wav, flac, ogg, mp3 …) and soxr resamples. Shape legend: S samples, C channels.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from emoray.config import Section
from emoray.errors import AudioError, TransientError
from emoray.lake.storage import connect

AUDIO_HZ = 16_000

#: A sample at or above this share of full scale counts as clipped (one step of 8-bit audio below full scale).
CLIPPED_LEVEL = 127 / 128
#: Sizes in the wav headers of streaming writers, which do not know the size: they mean nothing.
UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)
CONVERT = "Convert it, for example: ffmpeg -i INPUT -ar 16000 -ac 1 OUTPUT.wav"


class AudioConfig(Section):
    """Which clips are usable.

    Attributes:
        min_duration_s: Shorter clips are refused.
        max_duration_s: Longer clips are refused, before they are read.
        silence_dbfs: Clips whose level (RMS over the whole clip) is below this are refused.
    """

    min_duration_s: float
    max_duration_s: float
    silence_dbfs: float


@dataclass(frozen=True)
class Waveform:
    """A decoded clip.

    Attributes:
        samples: float32 (S,), mono, 16 kHz, full scale 1.
        duration_s: Length of the clip, or of the requested span.
        channels: Channels of the file, before averaging.
        rms_dbfs: Level of the whole clip, in dB relative to full scale.
        clipped_fraction: Share of the file's samples at full scale.
    """

    samples: npt.NDArray[np.float32]
    duration_s: float
    source_hz: int
    channels: int
    rms_dbfs: float
    clipped_fraction: float


def decode(
    source: str | bytes,
    config: AudioConfig,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Waveform:
    """Decode a clip to 16 kHz mono.

    Args:
        source: Local path, fsspec address (`s3://…`), or the bytes of an audio file.
        start_s, end_s: Span to read (by seeking: the rest is not decoded); by default the whole clip.

    Raises:
        AudioError: `kind` is missing_file, empty_file, not_audio, truncated_audio, audio_too_short, audio_too_long,
            silent_audio or non_finite_samples.
        TransientError: The storage failed in a way that may be temporary.
    """
    where = source if isinstance(source, str) else f"<{len(source)} bytes>"
    with opened(source, where, storage_options, whole=start_s is None and end_s is None) as file:
        samples_SC, source_hz = _read(sound_file(file, where), config, where, start_s, end_s)
    # The extremes (one pass, no copy) show NaN and infinity, and whether anything can be clipped.
    lowest, highest = float(samples_SC.min(initial=0.0)), float(samples_SC.max(initial=0.0))
    if not math.isfinite(highest - lowest):
        count = int(samples_SC.size - np.isfinite(samples_SC).sum())
        what = f"{count} samples are NaN or infinite"
        raise AudioError(what, where=where, remedy="Write the file again", kind="non_finite_samples")
    mono_S = _mixed_down(samples_SC)
    rms_dbfs = 20 * math.log10(max(float(np.sqrt(np.mean(np.square(mono_S, dtype=np.float64)))), 1e-10))
    if rms_dbfs < config.silence_dbfs:
        raise AudioError(
            f"clip is silent ({rms_dbfs:.0f} dBFS, the minimum is {config.silence_dbfs:g})",
            where=where,
            remedy="Check the microphone, the channel or the span",
            kind="silent_audio",
        )
    samples_S = soxr.resample(mono_S, source_hz, AUDIO_HZ) if source_hz != AUDIO_HZ else mono_S
    clipped = max(-lowest, highest) >= CLIPPED_LEVEL
    return Waveform(
        samples=np.ascontiguousarray(samples_S, dtype=np.float32),
        duration_s=len(samples_SC) / source_hz,
        source_hz=source_hz,
        channels=samples_SC.shape[1],
        rms_dbfs=rms_dbfs,
        clipped_fraction=float(np.mean(np.abs(samples_SC) >= CLIPPED_LEVEL)) if clipped else 0.0,
    )


def _mixed_down(samples_SC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean of the channels, (S,); column by column, as numpy is slow over such a short axis."""
    if samples_SC.shape[1] == 1:
        return samples_SC[:, 0]
    mono_S = samples_SC[:, 0] + samples_SC[:, 1]
    for channel_S in samples_SC.T[2:]:
        mono_S += channel_S
    mono_S /= samples_SC.shape[1]
    return mono_S


@contextlib.contextmanager
def opened(
    source: str | bytes, where: str, storage_options: Mapping[str, Any] | None, *, whole: bool
) -> Iterator[BinaryIO]:
    """A seekable file; whole remote clips are read in one request."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        if "://" not in source:
            if not stat.S_ISREG(mode := os.stat(source).st_mode) and not stat.S_ISDIR(mode):
                # Reading a pipe or a device may never end.
                raise AudioError(
                    "not a regular file", where=where, remedy="Name the recording itself", kind="not_audio"
                )
            # Unbuffered, so that descriptor and file have the same position: see `sound_file`.
            with open(source, "rb", buffering=0) as file:
                yield file
            return
        with _remote(source, where, storage_options, whole=whole) as file:
            yield file
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise AudioError(
            "no such audio file",
            where=where,
            remedy="Check the path, or the audio root of the manifest",
            kind="missing_file",
        ) from None
    except PermissionError as error:
        raise AudioError(f"not allowed to read it ({error})", where=where, remedy="Check the permissions") from None
    except (OSError, TimeoutError) as error:
        raise TransientError(f"cannot read the clip: {error}", where=where, remedy="Try again") from error


@contextlib.contextmanager
def _remote(source: str, where: str, storage_options: Mapping[str, Any] | None, *, whole: bool) -> Iterator[BinaryIO]:
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    try:
        system, path = connect(source, storage_options)
        if whole:
            yield io.BytesIO(system.cat_file(path))
        else:
            with system.open(path, "rb") as file:
                yield file
    except NoCredentialsError:
        raise AudioError(
            "no credentials for this storage",
            where=where,
            remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from None
    except BotoCoreError as error:
        raise TransientError(f"cannot read the clip: {error}", where=where, remedy="Try again") from error


def sound_file(file: BinaryIO, where: str) -> soundfile.SoundFile:
    """Check a file and open it as sound.

    Raises:
        AudioError: `kind` is empty_file, truncated_audio or not_audio.
    """
    size_bytes = _size(file)
    if size_bytes == 0:
        raise AudioError("file is empty (0 bytes)", where=where, remedy="Copy it again", kind="empty_file")
    _check_riff(file, size_bytes, where)
    try:
        # libsndfile reads a descriptor directly, other files through Python, 8 KiB at a time.
        return soundfile.SoundFile(file.fileno() if isinstance(file, io.FileIO) else file, closefd=False)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"not audio that libsndfile can read ({error.error_string.rstrip('.')})",
            where=where,
            remedy=CONVERT,
            kind="not_audio",
        ) from None


def _size(file: BinaryIO) -> int:
    size_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size_bytes


def _check_riff(file: BinaryIO, size_bytes: int, where: str) -> None:
    """Compare a wav's `data` chunk with the file's size: libsndfile reads a truncated file without an error."""
    head = file.read(12)
    try:
        if head[:4] != b"RIFF":
            return
        expected_bytes = int.from_bytes(head[4:8], "little") + 8
        position = 12
        while position + 8 <= size_bytes:
            file.seek(position)
            chunk = file.read(8)
            length_bytes = int.from_bytes(chunk[4:8], "little")
            position += 8
            if chunk[:4] == b"data":
                if length_bytes in UNKNOWN_SIZES or position + length_bytes <= size_bytes:
                    return
                expected_bytes = position + length_bytes
                break
            position += length_bytes + length_bytes % 2
        # The loop also ends here when the file stops before its data chunk begins.
        if expected_bytes > size_bytes:
            what = f"wav is truncated: by its header it has {expected_bytes} bytes, the file has {size_bytes}"
            raise truncated(what, where)
    finally:
        file.seek(0)


def _read(
    sound: soundfile.SoundFile, config: AudioConfig, where: str, start_s: float | None, end_s: float | None
) -> tuple[npt.NDArray[np.float32], int]:
    """Samples (S, C) of the span and their rate."""
    with sound:
        hz = sound.samplerate
        first = round((start_s or 0.0) * hz)
        last = sound.frames if end_s is None else min(round(end_s * hz), sound.frames)
        duration_s = (last - first) / hz
        if duration_s < config.min_duration_s:
            span = (
                ""
                if start_s is None and end_s is None
                else f" (span {start_s or 0:g}..{end_s or sound.frames / hz:g} s of {sound.frames / hz:.2f} s)"
            )
            raise AudioError(
                f"clip has {max(duration_s, 0):.3f} s{span}, at least {config.min_duration_s:g} s are needed",
                where=where,
                remedy="Drop it, or check start_s and end_s",
                kind="audio_too_short",
            )
        if duration_s > config.max_duration_s:
            raise AudioError(
                f"clip has {duration_s:.1f} s, at most {config.max_duration_s:g} s are allowed",
                where=where,
                remedy="Cut it into utterances, or raise max_duration_s",
                kind="audio_too_long",
            )
        try:
            sound.seek(first)
            samples_SC = sound.read(last - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise truncated(f"audio is truncated or damaged ({error.error_string.rstrip('.')})", where) from None
    if len(samples_SC) < last - first:
        raise truncated(f"audio is truncated: it has {len(samples_SC)} of {last - first} samples", where)
    return samples_SC, hz


def truncated(what: str, where: str) -> AudioError:
    """The error of a file that ends too early, or is damaged."""
    return AudioError(what, where=where, remedy="Copy it again from the source", kind="truncated_audio")
