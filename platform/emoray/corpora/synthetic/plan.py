"""What the synthetic corpus plants: voices with habits, and how arousal, dominance and emphasis are spoken.

Everything here is drawn from the seed alone; nothing is synthesised yet. Dimension order is valence, arousal,
dominance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emoray.corpora.synthetic.text import Sentence, draw_sentence

#: espeak-ng's English accents, and voice variants with reliable F0 (no whispers, robots, or very rough voices).
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
VARIANTS = {
    "female": ("f2", "f3", "f4", "f5", "aunty", "belinda", "grandma", "linda", "shelby", "steph", "steph2", "steph3"),
    "male": (
        "m2", "m3", "m4", "m6", "m7", "m8", "Denis", "Henrique", "Lee", "Michael", "Mike", "Nguyen", "Reed", "adam",
        "benjamin", "david", "gustave", "marcelo", "max", "michel", "miguel", "quincy", "sandro", "victor", "zac",
    ),
}  # fmt: skip

#: Planted values stay away from the ends of the scale, so that label noise is rarely clipped.
LOWEST, HIGHEST = 0.08, 0.92

# Habits. The usual pitch of a voice is independent of its timbre and gender: a model cannot guess it from the sound.
HABIT_PITCH_HZ = (75.0, 215.0)
PITCH_TOP = 1.43  # high end of a voice's pitch over its low end, as in espeak-ng's own default voice
HABIT_RATE_SD, HABIT_LEVEL_SD_DB, HABIT_RANGE_SD = 0.03, 0.8, 0.05

# Arousal, from LOWEST to HIGHEST: speaking rate, loudness, pitch range (espeak's units; 50 is its default).
RATE_WPM = (150.0, 245.0)
LEVEL_DBFS = (-36.0, -22.0)
PITCH_RANGE = (20.0, 90.0)

# Dominance: how far the pitch is below the habit, as a low voice sounds dominant (Ohala's frequency code).
# A pitch unit of espeak-ng is about 0.17 semitones at the pitches used.
PITCH_UNITS = 28.0
# The median F0 of a clip also depends on the pitch range, and on how much of the clip emphasis raises. Both are fitted
# on measured F0 and compensated, so that dominance alone decides the clip's level.
RANGE_COMPENSATION = 0.27
EMPHASIS_SHIFT = (33.0, -9.0, -2.5)  # per share of the clip raised, per share lowered, emphasis on the last word

# Emphasis: higher, wider, slower, louder, after a short pause. The rest of the sentence is lowered and narrowed, as in
# English after a focus (post-focus compression: Xu & Xu, 2005).
EMPHASIS_PITCH_UNITS = (14.0, 24.0)  # at lowest and highest arousal: emphasis scales with the pitch range
EMPHASIS_RATE, EMPHASIS_VOLUME, EMPHASIS_RANGE = 0.6, 2.0, 1.4
EMPHASIS_PAUSE_S = 0.07
AFTER_PITCH_UNITS, AFTER_RATE, AFTER_VOLUME, AFTER_RANGE = -3.0, 1.1, 0.75, 0.6

# espeak-ng's embedded commands (pitch, range, speed, amplitude) rather than SSML: espeak-ng 1.52 loses a part of one in
# 30 sentences with two <prosody> elements. With commands it loses one in 2,000; then fewer commands are tried.
COMMANDS = ("PRSA", "PSA", "PS")

#: Limits of espeak-ng's pitch and range settings.
LIMITS = (1, 99)


@dataclass(frozen=True)
class Speaker:
    """A voice and its habits.

    Attributes:
        accent: espeak-ng language.
        variant: espeak-ng voice variant.
        pitch_hz: Low end of its usual pitch.
        rate, level_db, pitch_range: Its difference from others: factor, offset, factor.
    """

    speaker_id: str
    split: str
    gender: str
    accent: str
    variant: str
    pitch_hz: float
    rate: float
    level_db: float
    pitch_range: float


@dataclass(frozen=True)
class Markup:
    """A sentence with espeak-ng's embedded commands.

    Attributes:
        text: The input of espeak-ng.
        positions: First character of each word in the text, counted from 1.
    """

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class UtterancePlan:
    """An utterance before it is synthesised.

    Attributes:
        sentence: What is said.
        planted: Valence, arousal, dominance in [0, 1], without label noise.
        label: The same with label noise, clipped to [0, 1].
        words_per_minute, pitch, pitch_range: Delivery in espeak-ng's units.
        level_dbfs: Loudness.
        markups: The sentence with its emphasis marked up for espeak-ng; if words are lost, the next one is tried.
        noise_seed: Seed of the background noise.
        dialogue_id, turn: Its dialogue and its index in it, from 0; None outside of dialogues.
    """

    sentence: Sentence
    planted: tuple[float, float, float]
    label: tuple[float, float, float]
    words_per_minute: int
    pitch: int
    pitch_range: int
    level_dbfs: float
    markups: tuple[Markup, ...]
    noise_seed: int
    dialogue_id: str | None = None
    turn: int | None = None


def draw_speakers(rng: np.random.Generator, counts: dict[str, int]) -> list[Speaker]:
    """Draw voices for every split: each accent × variant at most once, genders alternating.

    Raises:
        ValueError: More speakers are wanted than there are voices.
    """
    voices = {
        gender: [(accent, variant) for accent in ACCENTS for variant in variants]
        for gender, variants in VARIANTS.items()
    }
    for pairs in voices.values():
        rng.shuffle(pairs)
    wanted = sum(counts.values())
    if wanted > 2 * min(len(pairs) for pairs in voices.values()):
        raise ValueError(f"{wanted} speakers for {2 * min(len(pairs) for pairs in voices.values())} voices")
    speakers: list[Speaker] = []
    for split, count in counts.items():
        for place in range(count):
            gender = ("female", "male")[place % 2]
            accent, variant = voices[gender].pop()
            speakers.append(
                Speaker(
                    speaker_id=f"voice{len(speakers):03d}",
                    split=split,
                    gender=gender,
                    accent=str(accent),
                    variant=str(variant),
                    pitch_hz=float(np.exp(rng.uniform(*np.log(HABIT_PITCH_HZ)))),
                    rate=float(np.exp(rng.normal(0, HABIT_RATE_SD))),
                    level_db=float(rng.normal(0, HABIT_LEVEL_SD_DB)),
                    pitch_range=float(np.exp(rng.normal(0, HABIT_RANGE_SD))),
                )
            )
    return speakers


def draw_plans(
    rng: np.random.Generator, speaker: Speaker, count: int, opposed_fraction: float, label_noise_sd: float
) -> list[UtterancePlan]:
    """Draw what a speaker says, how, and its ratings.

    Arousal and dominance are spread evenly over a speaker's clips (one draw per stratum, in random order): a habit is a
    speaker's average, so no voice may be dominant on average.
    """
    strata = np.stack([rng.permutation(count), rng.permutation(count)])
    evenly = LOWEST + (HIGHEST - LOWEST) * (strata + rng.random((2, count))) / count
    return [
        _draw_plan(rng, speaker, float(arousal), float(dominance), opposed_fraction, label_noise_sd)
        for arousal, dominance in evenly.T
    ]


def _draw_plan(
    rng: np.random.Generator,
    speaker: Speaker,
    arousal: float,
    dominance: float,
    opposed_fraction: float,
    label_noise_sd: float,
) -> UtterancePlan:
    sentence = draw_sentence(rng, opposed_fraction)
    planted = np.array([sentence.valence, arousal, dominance])
    label = np.clip(planted + rng.normal(0, label_noise_sd, size=3), 0, 1)
    activation = (arousal - LOWEST) / (HIGHEST - LOWEST)
    words_per_minute = round(_between(RATE_WPM, activation) * speaker.rate)
    pitch_range = _range(_between(PITCH_RANGE, activation) * speaker.pitch_range)
    pitch = 50 - PITCH_UNITS * (dominance - 0.5) / (HIGHEST - LOWEST) - _emphasis_shift(sentence)
    return UtterancePlan(
        sentence=sentence,
        planted=_triple(planted),
        label=_triple(label),
        words_per_minute=words_per_minute,
        pitch=_pitch(pitch, pitch_range),
        pitch_range=pitch_range,
        level_dbfs=_between(LEVEL_DBFS, activation) + speaker.level_db,
        markups=tuple(
            _mark_up(sentence, words_per_minute, pitch, pitch_range, activation, commands) for commands in COMMANDS
        ),
        noise_seed=int(rng.integers(2**32)),
    )


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _pitch(level: float, pitch_range: float) -> int:
    """espeak-ng's pitch setting that gives a level at a pitch range: a wider range also lifts the voice."""
    return int(np.clip(round(level - RANGE_COMPENSATION * (pitch_range - 50)), *LIMITS))


def _range(value: float) -> int:
    return int(np.clip(round(value), *LIMITS))


def _emphasis_shift(sentence: Sentence) -> float:
    """By how many pitch units emphasis shifts the clip's median F0: it raises one part and lowers another."""
    lengths = [len(word) + 1.0 for word in sentence.words]
    stressed = lengths[sentence.emphasised] / EMPHASIS_RATE
    share = stressed / (sum(lengths) - lengths[sentence.emphasised] + stressed)
    following = 1 - (sentence.emphasised + 1) / len(sentence.words)
    raised, lowered, last = EMPHASIS_SHIFT
    return raised * (share - 0.2) + lowered * (following - 0.4) + last * (following == 0)


def _mark_up(
    sentence: Sentence, words_per_minute: int, pitch: float, pitch_range: int, activation: float, commands: str
) -> Markup:
    """Mark emphasis, and what follows it, with the named espeak-ng commands."""
    stressed = _commands(
        pitch + _between(EMPHASIS_PITCH_UNITS, activation),
        pitch_range * EMPHASIS_RANGE,
        words_per_minute * EMPHASIS_RATE,
        100 * EMPHASIS_VOLUME,
        commands,
    )
    after = _commands(
        pitch + AFTER_PITCH_UNITS,
        pitch_range * AFTER_RANGE,
        words_per_minute * AFTER_RATE,
        100 * AFTER_VOLUME,
        commands,
    )
    before_word = {sentence.emphasised: stressed, sentence.emphasised + 1: after}
    text, positions = "", []
    for index, word in enumerate(sentence.words):
        text += " " if index else ""
        positions.append(len(text) + 1)  # for espeak-ng, a word begins with its commands
        text += before_word.get(index, "") + word
    return Markup(text, tuple(positions))


def _commands(pitch: float, pitch_range: float, words_per_minute: float, amplitude: float, commands: str) -> str:
    """espeak-ng's embedded commands: pitch, range, speed and amplitude from here on."""
    settings = {
        "P": _pitch(pitch, pitch_range),
        "R": _range(pitch_range),
        "S": round(words_per_minute),
        "A": round(amplitude),
    }
    return "".join(f"\x01{settings[letter]}{letter}" for letter in commands)
