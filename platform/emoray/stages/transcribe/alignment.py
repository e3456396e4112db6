"""What a forced alignment is worth: words with their times, checked against how the clip sounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emoray.errors import StageError
from emoray.stages.transcribe.base import make_word

FRAME_S = 0.01
#: Mean score per frame that an alignment must reach: on synthetic voices 98 % of true transcripts do, and 10 % of wrong
#: ones.
MIN_SCORE = -0.006
#: The same for a single word: on real emotional voices (RAVDESS) 99 % of the words that are said reach it.
MIN_WORD_SCORE = -0.008


@dataclass(frozen=True)
class Segment:
    """A word heard between two times, with its posterior probability and its acoustic log-likelihood (scaled)."""

    word: str
    start_s: float
    end_s: float
    probability: float
    score: float


def tokens_of(text: str) -> list[str]:
    """The words of a text; what has no letter or digit in it is none.

    Raises:
        StageError: `empty_transcript`.
    """
    tokens = [token for token in text.split() if any(character.isalnum() for character in token)]
    if not tokens:
        raise StageError(f"no words in the transcript {text!r}", remedy="Give the words", kind="empty_transcript")
    return tokens


def score(segments: Sequence[Segment]) -> float:
    """Acoustic score per frame; nothing sounds like no segment."""
    frames = sum(segment.end_s - segment.start_s for segment in segments) / FRAME_S
    return sum(segment.score for segment in segments) / frames if frames else -math.inf


def check_score(found: Sequence[Segment]) -> None:
    """Raise unless the clip sounds like the words that were found in it.

    Raises:
        StageError: `alignment_mismatch`.
    """
    reached = score(found)
    if reached < MIN_SCORE:
        raise mismatch(
            f"the clip does not sound like its transcript (score {reached:.4f} per frame, at least {MIN_SCORE} wanted)"
        )


def mismatch(what: str) -> StageError:
    """The error of a clip and a text that do not fit together."""
    return StageError(
        what,
        remedy="Check that the clip says what the transcript says, or give word times with the corpus",
        kind="alignment_mismatch",
    )


def without_misfits(forms: Sequence[list[str]], found: Sequence[Segment]) -> list[list[str]]:
    """The same forms per word, none for a word that does not sound like itself."""
    pairs = zip(forms, _by_word(forms, found), strict=True)
    return [group if score(parts) >= MIN_WORD_SCORE else [] for group, parts in pairs]


def join(tokens: Sequence[str], forms: Sequence[list[str]], found: Sequence[Segment]) -> list[dict[str, Any]]:
    """Words as the text spells them: a hyphenated one spans its parts."""
    return [
        make_word(token, parts[0].start_s, parts[-1].end_s)
        for token, parts in zip(tokens, _by_word(forms, found), strict=True)
    ]


def join_known(tokens: Sequence[str], forms: Sequence[list[str]], found: Sequence[Segment]) -> list[dict[str, Any]]:
    """The same where some words have no forms: one by itself has the times of its stretch, several have none.

    Args:
        tokens: The words.
        forms: Their forms in the dictionary.
        found: A segment per form, and one per stretch of words without.
    """
    words = []
    segments = iter(found)
    for known, pairs in itertools.groupby(zip(tokens, forms, strict=True), key=lambda pair: bool(pair[1])):
        stretch = list(pairs)
        if known:
            names, groups = zip(*stretch, strict=True)
            words += join(names, groups, [next(segments) for group in groups for _ in group])
            continue
        between = next(segments)
        alone = len(stretch) == 1
        words += [
            make_word(token, between.start_s if alone else None, between.end_s if alone else None)
            for token, _ in stretch
        ]
    return words


def _by_word(forms: Sequence[list[str]], found: Sequence[Segment]) -> list[list[Segment]]:
    segments = iter(found)
    return [[next(segments) for _ in group] for group in forms]
