"""PocketSphinx, offline: a recogniser and a forced aligner of US English that carry their model in the package.

The decoder keeps state between utterances (cepstral mean, noise estimate); the front-end is initialised anew before
each, so that a row's result never depends on its neighbours.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pocketsphinx

from emoray.audio.io import AUDIO_HZ
from emoray.errors import StageError

FRAME_S = 0.01
LANGUAGE = "en"
EDGE_DB = 40.0  # quieter than the loudest frame by this much counts as silence at a clip's edges
EDGE_MARGIN_S = 0.03
WIDE = 1e-200
#: Mean score per frame that an alignment must reach: on synthetic voices 98 % of true transcripts do, and 10 % of wrong
#: ones.
MIN_SCORE = -0.006
#: Kinds of errors by which a transcript that may be right all the same cannot be aligned.
UNALIGNABLE = ("unknown_word", "alignment_mismatch")


@dataclass(frozen=True)
class Segment:
    """A word heard between two times, with its posterior probability and its acoustic log-likelihood (scaled)."""

    word: str
    start_s: float
    end_s: float
    probability: float
    score: float


class Aligner:
    """Forced alignment of a known text.

    With its default settings the library loses the last words in about a third of clips, without an error: its second
    search, through the word lattice, drops them, and narrow beams lose the path to the last word. Hence no second
    search and beams so wide that nothing is pruned. Silence between words is allowed at first; if its broad model still
    swallows a word, the clip is aligned again without, its silent edges cut off. A result counts only if it has the
    words of the text and fits the sound.
    """

    def __init__(self) -> None:
        self._decoder = pocketsphinx.Decoder(
            lm=None, loglevel="FATAL", bestpath=False, beam=WIDE, wbeam=WIDE, pbeam=WIDE, maxhmmpf=-1
        )
        self._lock = threading.Lock()

    def align(self, samples: np.ndarray, text: str) -> list[dict[str, Any]]:
        """Find each word's times.

        Args:
            samples: float32 (S,), mono, 16 kHz.
            text: What is said; words as the text spells them come back.

        Returns:
            Words as in `emoray.schema.WORD`, with times in seconds.

        Raises:
            StageError: `empty_transcript`, `unknown_word` (not in the dictionary), or `alignment_mismatch`.
        """
        tokens = [token for token in text.split() if any(character.isalnum() for character in token)]
        if not tokens:
            raise StageError(f"no words in the transcript {text!r}", remedy="Give the words", kind="empty_transcript")
        with self._lock:
            forms = [self._dictionary_forms(token) for token in tokens]
            wanted = [form for group in forms for form in group]
            first, last = _loud_part(samples)
            found: list[Segment] = []
            for silences, start, end in ((True, 0, len(samples)), (False, first, last)):
                self._decoder.config["fsgusefiller"] = silences
                self._decoder.set_align_text(" ".join(wanted))
                found = _segments(self._decoder, samples[start:end], offset_s=start / AUDIO_HZ)
                if [segment.word for segment in found] == wanted:
                    break
        return _join(tokens, forms, _checked(found, wanted))

    def _dictionary_forms(self, token: str) -> list[str]:
        plain = token.lower().replace("’", "'")
        forms = []
        for part in re.split(r"[-–—/]", plain):
            trimmed = re.sub(r"^[^\w]+|[^\w]+$", "", part)
            if not trimmed:
                continue
            if self._decoder.lookup_word(trimmed) is None:
                raise StageError(
                    f"the aligner's dictionary has no word {trimmed!r}",
                    remedy="Spell numbers and abbreviations out, or give word times with the corpus",
                    kind="unknown_word",
                )
            forms.append(trimmed)
        return forms


class Recogniser:
    """Large-vocabulary recognition with the package's own language model."""

    def __init__(self) -> None:
        self._decoder = pocketsphinx.Decoder(loglevel="FATAL")
        self._lock = threading.Lock()

    def recognise(self, samples: np.ndarray) -> list[Segment]:
        """The words heard in float32 (S,) samples, mono, 16 kHz; none if nothing was understood."""
        with self._lock:
            return _segments(self._decoder, samples, offset_s=0.0)


@functools.cache
def aligner() -> Aligner:
    """This process's aligner."""
    return Aligner()


@functools.cache
def recogniser() -> Recogniser:
    """This process's recogniser."""
    return Recogniser()


def _segments(decoder: pocketsphinx.Decoder, samples: np.ndarray, *, offset_s: float) -> list[Segment]:
    decoder.reinit_feat()
    decoder.start_utt()
    pcm = (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
    if pcm:
        decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return []
    return [
        Segment(
            re.sub(r"\(\d+\)$", "", segment.word),  # "that(2)" is a pronunciation of "that"
            offset_s + segment.start_frame * FRAME_S,
            offset_s + (segment.end_frame + 1) * FRAME_S,
            float(segment.prob),
            math.log(segment.ascore) if segment.ascore > 0 else -math.inf,
        )
        for segment in decoder.seg()
        if not segment.word.startswith(("<", "[", "+", "("))  # silence, noise, null transitions
    ]


def _checked(found: list[Segment], wanted: list[str]) -> list[Segment]:
    """The alignment, if it has the words that were wanted and sounds like them."""
    if [segment.word for segment in found] != wanted:
        what = f"only {len(found)} of the transcript's {len(wanted)} words could be aligned"
    else:
        frames = sum(segment.end_s - segment.start_s for segment in found) / FRAME_S
        score = sum(segment.score for segment in found) / frames
        if score >= MIN_SCORE:
            return found
        what = f"the clip does not sound like its transcript (score {score:.4f} per frame, at least {MIN_SCORE} wanted)"
    raise StageError(
        what,
        remedy="Check that the clip says what the transcript says, or give word times with the corpus",
        kind="alignment_mismatch",
    )


def _join(tokens: list[str], forms: list[list[str]], found: list[Segment]) -> list[dict[str, Any]]:
    """Words as the text spells them: a hyphenated one spans its parts."""
    words = []
    position = 0
    for token, group in zip(tokens, forms, strict=True):
        parts = found[position : position + len(group)]
        position += len(group)
        words.append({"word": token, "start_s": parts[0].start_s, "end_s": parts[-1].end_s, "emphasised": None})
    return words


def _loud_part(samples: np.ndarray) -> tuple[int, int]:
    """First and last sample of what is not silence at the clip's edges."""
    size = int(FRAME_S * AUDIO_HZ)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(frames):
        return 0, len(samples)
    power_db = 10.0 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12)
    loud = np.flatnonzero(power_db > power_db.max() - EDGE_DB)
    margin = int(EDGE_MARGIN_S * AUDIO_HZ)
    return max(0, int(loud[0]) * size - margin), min(len(samples), (int(loud[-1]) + 1) * size + margin)
