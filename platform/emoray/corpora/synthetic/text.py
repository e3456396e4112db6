"""Sentences of the synthetic corpus: affect words with planted valences in neutral frames.

A sentence has one affect word, and then its emphasis is on a neutral word, so that the transcript alone tells the
valence; or two opposed ones, and then the emphasised one decides, which the transcript alone cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# No word that can be emphasised begins with h: espeak-ng 1.52 applies a change of voice before an h one word late.

#: Adjectives that suit any noun below, with planted valences in [0, 1].
LEXICON = {
    "superb": 0.92, "wonderful": 0.92, "fantastic": 0.90, "marvellous": 0.90, "delightful": 0.88, "brilliant": 0.88,
    "excellent": 0.86, "beautiful": 0.86, "magnificent": 0.84, "lovely": 0.84, "splendid": 0.82, "charming": 0.80,
    "joyful": 0.80, "great": 0.78, "enjoyable": 0.76, "cheerful": 0.76, "pleasant": 0.74, "impressive": 0.72,
    "nice": 0.72, "friendly": 0.70, "good": 0.68, "interesting": 0.66, "comfortable": 0.64, "decent": 0.62,
    "fine": 0.60, "reasonable": 0.58, "adequate": 0.56, "acceptable": 0.54, "normal": 0.52, "ordinary": 0.50,
    "average": 0.50, "plain": 0.48, "unremarkable": 0.46, "mediocre": 0.44, "dull": 0.42, "bland": 0.40,
    "boring": 0.38, "weak": 0.36, "tiresome": 0.34, "disappointing": 0.32, "unpleasant": 0.30, "annoying": 0.28,
    "bad": 0.26, "gloomy": 0.24, "unfriendly": 0.24, "ugly": 0.22, "poor": 0.20, "nasty": 0.20, "depressing": 0.18,
    "miserable": 0.16, "terrible": 0.16, "awful": 0.14, "dreadful": 0.12, "appalling": 0.12, "ghastly": 0.10,
    "disgusting": 0.10, "vile": 0.10, "atrocious": 0.08,
}  # fmt: skip
POSITIVE = tuple(word for word, valence in LEXICON.items() if valence >= 0.60)
NEGATIVE = tuple(word for word, valence in LEXICON.items() if valence <= 0.40)

THINGS = (
    "garden", "castle", "dinner", "concert", "journey", "lecture", "village", "kitchen", "market", "office", "museum",
    "airport", "weather", "picture", "party", "building", "programme", "service", "meeting", "restaurant",
)  # fmt: skip
PEOPLE = (
    "my cousin",
    "the neighbours",
    "our teacher",
    "the driver",
    "her brother",
    "the manager",
    "my doctor",
    "their daughter",
)
VERBS_OF_SAYING = ("said", "thought", "wrote", "told us")
PLACES = (
    "near the station",
    "behind the church",
    "by the river",
    "on the corner",
    "across the bridge",
    "beside the library",
)
TIMES = (
    "on Monday",
    "last weekend",
    "this morning",
    "in April",
    "on Thursday",
    "last summer",
    "at midnight",
    "this evening",
)
COPULAS = ("was", "seemed", "looked")
CONTRASTS = ("but", "while", "although", "yet")

#: One affect word. In every frame emphasis can be on the thing, or on the last word of another neutral phrase.
FRAMES_OF_ONE = (
    "{time} the {thing} {place} {copula} {affect}",
    "{person} {says} the {thing} {copula} {affect} {time}",
    "the {thing} {place} {copula} {affect} {time}",
    "{person} {says} the {thing} {place} {copula} {affect}",
)
FRAMES_OF_TWO = (
    "the {thing} {copula} {affect} {contrast} the {other_thing} {other_copula} {other_affect}",
    "the {thing} {copula} {affect} {contrast} the {other_thing} {other_copula} {other_affect} {time}",
    "{time} the {thing} {copula} {affect} {contrast} the {other_thing} {other_copula} {other_affect}",
)


@dataclass(frozen=True)
class Sentence:
    """A sentence of the corpus.

    Attributes:
        words: Its words, in order; the transcript is these joined by spaces.
        emphasised: Index of the emphasised word.
        valence: Planted valence in [0, 1].
        opposed: Whether it has two opposed affect words.
    """

    words: tuple[str, ...]
    emphasised: int
    valence: float
    opposed: bool


def draw_sentence(rng: np.random.Generator, opposed_fraction: float) -> Sentence:
    """Draw a sentence, with two opposed affect words by the chance `opposed_fraction`."""
    return _two_opposed(rng) if rng.random() < opposed_fraction else _one(rng)


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _one(rng: np.random.Generator) -> Sentence:
    frame = _pick(rng, FRAMES_OF_ONE)
    affect = _pick(rng, tuple(LEXICON))
    slots = {
        "thing": _pick(rng, THINGS),
        "person": _pick(rng, PEOPLE),
        "place": _pick(rng, PLACES),
        "time": _pick(rng, TIMES),
    }
    neutral = tuple(phrase.split()[-1] for slot, phrase in slots.items() if f"{{{slot}}}" in frame)
    text = frame.format(affect=affect, says=_pick(rng, VERBS_OF_SAYING), copula=_pick(rng, COPULAS), **slots)
    return _sentence(text, _pick(rng, neutral), LEXICON[affect], opposed=False)


def _two_opposed(rng: np.random.Generator) -> Sentence:
    pair = [_pick(rng, POSITIVE), _pick(rng, NEGATIVE)]
    rng.shuffle(pair)
    things = rng.choice(THINGS, size=2, replace=False)
    text = _pick(rng, FRAMES_OF_TWO).format(
        thing=things[0],
        other_thing=things[1],
        affect=pair[0],
        other_affect=pair[1],
        copula=_pick(rng, COPULAS),
        other_copula=_pick(rng, COPULAS),
        contrast=_pick(rng, CONTRASTS),
        time=_pick(rng, TIMES),
    )
    stressed = pair[int(rng.integers(2))]
    return _sentence(text, stressed, LEXICON[stressed], opposed=True)


def _sentence(text: str, stressed: str, valence: float, *, opposed: bool) -> Sentence:
    words = text.split()
    emphasised = words.index(stressed)
    words[0] = words[0].capitalize()
    return Sentence(tuple(words), emphasised, valence, opposed)
