"""PocketSphinx, offline: a recogniser and a forced aligner of US English that carry their model in the package.

The decoder keeps state between utterances (cepstral mean, noise estimate); the front-end is initialised anew before
each, so that a row's result never depends on its neighbours.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import pocketsphinx

from emoray.audio.io import AUDIO_HZ
from emoray.stages.transcribe.alignment import (
    FRAME_S,
    Segment,
    check_score,
    join_known,
    mismatch,
    tokens_of,
    without_misfits,
)

LANGUAGE = "en"
EDGE_DB = 40.0  # quieter than the loudest frame by this much counts as silence at a clip's edges
EDGE_MARGIN_S = 0.03
WIDE = 1e-200
#: The dictionary's phonemes (ARPAbet), each as a word of its own, in place of a word that the dictionary lacks …
PHONEMES = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY"),
    *("F", "G", "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY"),
    *("P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)
#: … and what each of them costs: little enough that it does not matter, enough that no known word loses frames to them.
PHONEME_PROBABILITY = 0.001 / len(PHONEMES)
PHONEME_MARK = "~"  # no word of the dictionary begins with it
SEARCH = "known words"


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
        self._knows_phonemes = False

    def align(self, samples: np.ndarray, text: str, *, check_words: bool = False) -> list[dict[str, Any]]:
        """Find the times of those words that can be aligned; the others have none.

        A word that the dictionary lacks is replaced by any sequence of phonemes, which shows where it stands. Where
        several stand side by side, nothing shows which is which.

        Args:
            samples: float32 (S,), mono, 16 kHz.
            text: What is said; all of its words come back, as the text spells them.
            check_words: Also replace each word that does not sound like itself: the text is what a recogniser heard.

        Returns:
            Words as in `emoray.schema.WORD`: times in seconds, in order and within the clip, or None.

        Raises:
            StageError: `empty_transcript`, or `alignment_mismatch` where no word can be aligned.
        """
        tokens = tokens_of(text)
        with self._lock:
            forms = [self._dictionary_forms(token) for token in tokens]
            if all(forms):
                found = self._find([form for group in forms for form in group], samples)
                forms = without_misfits(forms, found) if check_words else forms
            if not all(forms):
                found = self._find_around(forms, samples)
        check_score([segment for segment in found if segment.word])
        return join_known(tokens, forms, found)

    def _find(self, wanted: list[str], samples: np.ndarray) -> list[Segment]:
        """The words in order, all of them."""
        first, last = _loud_part(samples)
        found: list[Segment] = []
        for silences, start, end in ((True, 0, len(samples)), (False, first, last)):
            self._decoder.config["fsgusefiller"] = silences
            self._decoder.set_align_text(" ".join(wanted))
            found = _segments(self._decoder, samples[start:end], offset_s=start / AUDIO_HZ)
            if [segment.word for segment in found] == wanted:
                return found
        raise mismatch(f"only {len(found)} of the transcript's {len(wanted)} words could be aligned")

    def _find_around(self, forms: list[list[str]], samples: np.ndarray) -> list[Segment]:
        """The words in order, with one segment without a word for each stretch of words that have no forms."""
        if not self._knows_phonemes:
            for phoneme in PHONEMES:
                self._decoder.add_word(_phoneme_word(phoneme), phoneme, phoneme == PHONEMES[-1])
            self._knows_phonemes = True
        transitions: list[tuple[int, int, float, str]] = []
        wanted: list[str] = []
        for group in forms:
            if not group and wanted[-1:] == [""]:
                continue
            for form in group or [""]:
                state = len(wanted)
                wanted.append(form)
                if form:
                    transitions.append((state, state + 1, 1.0, form))
                for phoneme in () if form else map(_phoneme_word, PHONEMES):
                    transitions.append((state, state + 1, PHONEME_PROBABILITY, phoneme))
                    transitions.append((state + 1, state + 1, PHONEME_PROBABILITY, phoneme))
        self._decoder.config["fsgusefiller"] = True
        self._decoder.add_fsg(SEARCH, self._decoder.create_fsg(SEARCH, 0, len(wanted), transitions))
        self._decoder.activate_search(SEARCH)
        found = _without_phonemes(_segments(self._decoder, samples, offset_s=0.0))
        if [segment.word for segment in found] != wanted:
            raise mismatch("the transcript's words could not be aligned")
        return found

    def _dictionary_forms(self, token: str) -> list[str]:
        """A word's forms in the dictionary, one per part of a hyphenated word; none if it lacks one of them."""
        plain = _without_accents(token.lower().replace("’", "'"))
        trimmed = (re.sub(r"^[^\w]+|[^\w]+$", "", part) for part in re.split(r"[-–—/]", plain))
        forms = [form for form in trimmed if form]
        return forms if all(self._decoder.lookup_word(form) is not None for form in forms) else []


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


def _without_accents(word: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFKD", word) if not unicodedata.combining(part))


def _phoneme_word(phoneme: str) -> str:
    return f"{PHONEME_MARK}{phoneme}"


def _without_phonemes(found: list[Segment]) -> list[Segment]:
    """The same, each run of phonemes as one segment without a word."""
    joined: list[Segment] = []
    for segment in found:
        if not segment.word.startswith(PHONEME_MARK):
            joined.append(segment)
        elif joined and not joined[-1].word:
            joined[-1] = replace(joined[-1], end_s=segment.end_s)
        else:
            joined.append(replace(segment, word=""))
    return joined


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
