"""Short clips for the fault and scale benchmarks: a buzz with syllables, and ten ways in which a file can be bad.

They test software. They contain no speech.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from emoray.audio.io import AUDIO_HZ
from emoray.lake.tables import Lake
from emoray.schema import empty_row, utterances_table

CORPUS = "clips"
WORDS = ["the", "red", "door", "was", "never", "open", "again"]
SPEAKERS = 20


def buzz(seconds: float, seed: int) -> npt.NDArray[np.float32]:
    """A voiced sound, float32 (S,), 16 kHz; pitch, melody, syllables and level depend on the seed."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * AUDIO_HZ)) / AUDIO_HZ
    melody = 1 + rng.uniform(0.05, 0.2) * np.sin(2 * np.pi * rng.uniform(0.5, 1.5) * time_s)
    phase = 2 * np.pi * np.cumsum((100 + 10 * (seed % SPEAKERS)) * melody) / AUDIO_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 6))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(3, 5) * time_s)
    level = rng.uniform(0.1, 0.25)
    return np.asarray(level * voice * syllables + 0.005 * rng.normal(size=time_s.size), np.float32)


def utterance(number: int, audio_uri: str, duration_s: float | None) -> dict[str, object]:
    """A row with a transcript and the times of its words, of one of twenty speakers, half of them in train."""
    speaker = number % SPEAKERS
    step_s = (duration_s or 1.0) / (len(WORDS) + 1)
    words = [
        {"word": word, "start_s": step_s * (place + 0.3), "end_s": step_s * (place + 1.2), "emphasised": None}
        for place, word in enumerate(WORDS)
    ]
    return empty_row() | {
        "utterance_id": f"c{number:06d}",
        "corpus": CORPUS,
        "audio_uri": audio_uri,
        "duration_s": duration_s,
        "speaker_id": f"s{speaker:02d}",
        "split": ("train", "test")[speaker % 2],
        "language": "en",
        "transcript": " ".join(WORDS),
        "words": words,
    }


def make_clips(folder: Path, count: int) -> list[dict[str, object]]:
    """Write clips of 1 to 1.5 s that are missing.

    Returns:
        A row of the utterances table for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        path, seconds = folder / f"{number:06d}.wav", 1.0 + 0.1 * (number % 6)
        if not path.exists():
            part = path.with_suffix(".part")
            soundfile.write(part, buzz(seconds, number), AUDIO_HZ, format="WAV", subtype="PCM_16")
            part.replace(path)
        rows.append(utterance(number, str(path), seconds))
    return rows


def write_corpus(lake: Lake, rows: list[dict[str, object]]) -> None:
    """Write rows to a lake as its corpus."""
    lake.write_utterances(CORPUS, utterances_table(rows))


def _wav(samples: npt.NDArray[np.float32], subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, AUDIO_HZ, format="WAV", subtype=subtype)
    return file.getvalue()


def _with_nan() -> bytes:
    samples = buzz(1.0, 1)
    samples[100:110] = np.nan
    return _wav(samples, "FLOAT")


def _huge_header() -> bytes:
    """A header that announces ten times the samples that follow."""
    data = bytearray(_wav(buzz(1.0, 2)))
    place = data.index(b"data") + 4
    announced_bytes = int.from_bytes(data[place : place + 4], "little") * 10
    data[place : place + 4] = announced_bytes.to_bytes(4, "little")
    return bytes(data)


#: Ten kinds of bad clip: name → (content, or None for a missing file; the expected `kind` of the error).
BAD: dict[str, tuple[Callable[[], bytes] | None, str]] = {
    "empty": (lambda: b"", "empty_file"),
    "cut_off": (lambda: _wav(buzz(1.0, 3))[:9000], "truncated_audio"),
    "huge_header": (_huge_header, "truncated_audio"),
    "text": (lambda: b"this is a text file that somebody called .wav\n" * 50, "not_audio"),
    "unknown_codec": (lambda: b"\x1aE\xdf\xa3" + bytes(range(256)) * 20, "not_audio"),
    "too_short": (lambda: _wav(buzz(0.05, 4)), "audio_too_short"),
    "too_long": (lambda: _wav(np.tile(buzz(1.0, 5), 61)), "audio_too_long"),
    "silent": (lambda: _wav(np.zeros(AUDIO_HZ, np.float32)), "silent_audio"),
    "nan": (_with_nan, "non_finite_samples"),
    "missing": (None, "missing_file"),
}


def make_bad_clips(folder: Path, first: int, count: int) -> dict[str, tuple[dict[str, object], str]]:
    """Write bad clips of all kinds in turn.

    Returns:
        utterance_id → (its row, the expected kind of its error).
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for number in range(count):
        name = list(BAD)[number % len(BAD)]
        content, kind = BAD[name]
        path = folder / f"{name}-{number:04d}.wav"
        if content is not None:
            path.write_bytes(content())
        row = utterance(first + number, os.fspath(path), None)
        made[str(row["utterance_id"])] = (row, kind)
    return made
