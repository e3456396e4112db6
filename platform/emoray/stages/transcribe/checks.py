"""What a recogniser's text must pass before it counts: recognisers write words for silence and repeat themselves."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.audio.activity import speech_frames, weights_version
from emoray.errors import StageError
from emoray.stages.transcribe.config import ChecksConfig

#: Longest group of words that is looked at for repeats.
LONGEST_GROUP = 8
#: A shorter text says too little about how well it can be compressed.
MIN_BYTES = 60


def options(config: ChecksConfig) -> dict[str, Any]:
    """The checks for a fingerprint, with the weights that hear speech."""
    given = config.model_dump(mode="json")
    return given if config.speech is None else {**given, "speech_model": weights_version()}


def has_speech(samples: npt.NDArray[np.float32], config: ChecksConfig) -> bool:
    """Whether the voice detector finds any speech in float32 (S,) samples, mono, 16 kHz. True without that check."""
    if config.speech is None:
        return True
    from emoray.audio.silero import SpeechDetector

    return bool(speech_frames(SpeechDetector().probabilities(samples), config.speech).any())


def refuse_repeats(text: str, config: ChecksConfig, where: str) -> StageError | None:
    """An error, `repetitive_transcript`, for a text that says the same over and over; None for any other."""
    if config.max_repeats is not None:
        times, group = longest_repeat(text.lower().split())
        if times > config.max_repeats:
            return _repetitive(f"{' '.join(group)!r} {times} times in a row", where)
    raw = text.encode()
    if config.max_compression is not None and len(raw) >= MIN_BYTES:
        ratio = len(raw) / len(zlib.compress(raw))
        if ratio > config.max_compression:
            return _repetitive(f"a text that compresses {ratio:.1f} times", where)
    return None


def longest_repeat(words: Sequence[str]) -> tuple[int, Sequence[str]]:
    """How often a group of one to eight words stands in a row at most, and the group; (1, ()) if none repeats."""
    most: tuple[int, Sequence[str]] = (1, ())
    for size in range(1, min(LONGEST_GROUP, len(words) // 2) + 1):
        run = 0
        for index in range(len(words) - size):
            run = run + 1 if words[index] == words[index + size] else 0
            times = run // size + 1
            if times > most[0]:
                most = (times, words[index + 1 : index + 1 + size])
    return most


def _repetitive(what: str, where: str) -> StageError:
    return StageError(
        f"the recogniser repeats itself: {what}",
        where=where,
        remedy="Listen to the clip; if it is so, raise annotate.transcribe.checks.max_repeats and max_compression",
        kind="repetitive_transcript",
    )
