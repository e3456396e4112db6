"""What the recognisers share: no text for silence, no text that repeats itself, word times where they can be had."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.audio.io import AUDIO_HZ
from emoray.errors import StageError
from emoray.stages.base import WAVEFORM, Row, Value
from emoray.stages.transcribe import checks
from emoray.stages.transcribe.base import Times, Transcribe, make_value, make_word, nothing_heard
from emoray.stages.transcribe.config import AlignedTimes, ChecksConfig

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hypothesis:
    """What a recogniser heard in a clip.

    Attributes:
        text: The transcript; empty where it understood nothing.
        language: Language code, given or detected; None if unknown.
        words: (word, start_s, end_s) where the recogniser gives times.
        confidence: 0..1, where it gives one.
    """

    text: str
    language: str | None
    words: Sequence[tuple[str, float | None, float | None]] | None = None
    confidence: float | None = None


class Recognise(Transcribe):
    """Base of the recognisers.

    Args:
        times: What to do about word times that the recogniser does not give.
    """

    requires = (WAVEFORM,)
    resources = "actor"

    def __init__(self, checks: ChecksConfig, times: AlignedTimes) -> None:
        self.checks = checks
        self.times = times

    @abstractmethod
    def hear(self, clips: Sequence[Waveform]) -> Sequence[Hypothesis | Exception]:
        """Recognise clips, float32 (S,) each, mono, 16 kHz; an exception in the place of a clip that is to blame."""

    def run(self, rows: list[Row]) -> Sequence[Value | Exception]:
        """Recognise a batch.

        Returns:
            Per row its value, or a StageError: `empty_transcript` where nothing is said or nothing was understood,
            `repetitive_transcript`, and for `times: aligned` `alignment_mismatch`.
        """
        found: dict[int, Value | Exception] = {
            index: nothing_heard(row, "the voice detector finds no speech in the clip")
            for index, row in enumerate(rows)
            if not checks.has_speech(row[WAVEFORM], self.checks)
        }
        spoken = [index for index in range(len(rows)) if index not in found]
        heard = self.hear([rows[index][WAVEFORM] for index in spoken]) if spoken else []
        for index, hypothesis in zip(spoken, heard, strict=True):
            if isinstance(hypothesis, Exception):
                found[index] = hypothesis
            else:
                found[index] = self._value(rows[index], hypothesis)
        return [found[index] for index in range(len(rows))]

    def _value(self, row: Row, heard: Hypothesis) -> Value | Exception:
        text = " ".join(heard.text.split())
        if not any(character.isalnum() for character in text):
            return nothing_heard(row, "the recogniser understood no word")
        repetitive = checks.refuse_repeats(text, self.checks, row["utterance_id"])
        if repetitive is not None:
            return repetitive
        language = heard.language or row.get("language")
        samples = row[WAVEFORM]
        times: Times = "none"
        words = [make_word(word) for word in text.split()]
        if heard.words is not None:
            words, times = possible_times(heard.words, len(samples) / AUDIO_HZ), "recogniser"
        elif self.times == "aligned" or (self.times == "auto" and (language or "en").lower().startswith("en")):
            from emoray.stages.transcribe.pocketsphinx import aligner

            try:
                aligned = aligner().align(samples, text, check_words=True)
            except StageError as refused:
                if self.times == "aligned":
                    return refused
            else:
                spans = ((word["word"], word["start_s"], word["end_s"]) for word in aligned)
                words, times = possible_times(spans, len(samples) / AUDIO_HZ), "aligned"
        if all(word["start_s"] is None for word in words):
            times = "none"
        return make_value(text, words, language, heard.confidence, times)


def possible_times(spans: Iterable[tuple[str, float | None, float | None]], duration_s: float) -> list[dict[str, Any]]:
    """Words with those times that can be: finite, within the clip, none before the word in front of it has begun.

    Args:
        spans: (word, start_s, end_s).
        duration_s: Of the clip. A word that ends behind it ends with it.

    Returns:
        Words as in `emoray.schema.WORD`; a word with impossible times has none.
    """
    words = []
    latest_s = 0.0
    for word, start_s, end_s in spans:
        if start_s is None or end_s is None or not (math.isfinite(start_s) and math.isfinite(end_s)):
            words.append(make_word(word))
            continue
        end_s = min(end_s, duration_s)
        if not latest_s <= start_s <= end_s:
            words.append(make_word(word))
            continue
        latest_s = start_s
        words.append(make_word(word, float(start_s), float(end_s)))
    return words
