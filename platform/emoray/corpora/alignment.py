"""Word times that a corpus provides: Praat's TextGrid (Montreal Forced Aligner) and SPHINX's segmentation (.wdseg)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from emoray.corpora.import_report import ImportReport

Words = list[dict[str, Any]]

#: What aligners write for a pause.
SILENCES = frozenset({"", "sp", "sil", "spn", "<eps>", "<s>", "</s>", "<sil>", "<p:>", "#"})
#: What the Montreal Forced Aligner writes for a word that is not in its dictionary.
OUT_OF_VOCABULARY = "<unk>"
WORD_TIERS = ("words", "word")
#: SPHINX counts frames of 10 ms; the last frame of a word is part of it.
SPHINX_FRAMES_PER_S = 100
TOKEN = re.compile(r'"(?P<text>(?:[^"]|"")*)"|(?<![\w.-])(?P<number>-?\d+(?:\.\d+)?(?:[eE]-?\d+)?)(?![\w.\]])')
SEGMENT = re.compile(r"\s*(?P<first>\d+)\s+(?P<last>\d+)\s+-?\d+\s+(?P<word>\S+)\s*")
#: SPHINX numbers a word's pronunciations: READ(2).
PRONUNCIATION = re.compile(r"\(\d+\)$")
NOISE = re.compile(r"\+\+.*\+\+|\[.*\]|<.*>")


def textgrid(text: str) -> Words | None:
    """The words of a TextGrid, in its long or its short form, with times in seconds.

    Returns:
        Words as in `emoray.schema.WORD` without pauses; None if the text is not a TextGrid with a tier of words.
    """
    if "ooTextFile" not in text[:200] or "TextGrid" not in text[:200]:
        return None
    for name, values in _tiers(text):
        if name.lower() in WORD_TIERS or name.lower().endswith(" - words"):
            words = [
                {"word": word, "start_s": start_s, "end_s": end_s, "emphasised": None}
                for start_s, end_s, word in values
                if word.strip().lower() not in SILENCES
            ]
            return words if _ordered(words) else None
    return None


def _tiers(text: str) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    """Names of the interval tiers with their intervals; both forms are the same sequence of numbers and texts."""
    for tier in text.split('"IntervalTier"')[1:]:
        tokens = [
            match["text"].replace('""', '"').strip() if match["text"] is not None else float(match["number"])
            for match in TOKEN.finditer(tier)
        ]
        name, _, _, size = (*tokens[:4], *4 * [None])[:4]
        if not isinstance(name, str) or not isinstance(size, float) or not 0 <= 3 * size <= len(tokens) - 4:
            continue
        flat = tokens[4 : 4 + 3 * int(size)]
        intervals = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        if all(
            isinstance(start, float) and isinstance(end, float) and isinstance(word, str)
            for start, end, word in intervals
        ):
            yield name, intervals  # type: ignore[misc]


def wdseg(text: str) -> Words | None:
    """The words of a SPHINX segmentation (`SFrm EFrm SegAScr Word`), with times in seconds.

    Returns:
        Words as in `emoray.schema.WORD`, lower case, without pauses and noises; None if no line has that form.
    """
    found = [match for line in text.splitlines() if (match := SEGMENT.fullmatch(line))]
    if not found:
        return None
    words: Words = []
    for match in found:
        word = PRONUNCIATION.sub("", match["word"])
        if word.lower() in SILENCES or NOISE.fullmatch(word):
            continue
        start_s = int(match["first"]) / SPHINX_FRAMES_PER_S
        end_s = (int(match["last"]) + 1) / SPHINX_FRAMES_PER_S
        words.append({"word": word.lower(), "start_s": start_s, "end_s": end_s, "emphasised": None})
    return words if _ordered(words) else None


def spelled(words: Words, transcript: str | None) -> Words | None:
    """The words as the transcript spells them; None if the two differ (an unknown word agrees with any)."""
    said = [token for token in (transcript or "").split() if _bare(token) and not NOISE.fullmatch(token)]
    if len(said) != len(words) or any(
        word["word"] != OUT_OF_VOCABULARY and _bare(word["word"]) != _bare(token)
        for word, token in zip(words, said, strict=True)
    ):
        return None
    return [word | {"word": token} for word, token in zip(words, said, strict=True)]


def taken(
    text: str | None, parse: Callable[[str], Words | None], transcript: str | None, which: str, report: ImportReport
) -> Words | None:
    """The `words` column of an utterance, spelled as in its transcript where both agree.

    `text` is the alignment file, `parse` `textgrid` or `wdseg`. The report counts utterances without word times, and
    those whose alignment has other words than the transcript.
    """
    words = None if text is None else parse(text)
    if words is None:
        report.note("no word times" if text is None else "unreadable alignment", which)
        return None
    agreed = spelled(words, transcript)
    if agreed is None and transcript is not None:
        report.note("alignment has other words than the transcript", which)
    return agreed or words or None


def _bare(token: str) -> str:
    return "".join(letter for letter in token.casefold() if letter.isalnum())


def _ordered(words: Words) -> bool:
    return all(word["start_s"] < word["end_s"] for word in words)
