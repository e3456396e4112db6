"""cues: measured prosody put into words, without a model and without a verdict.

The words say what was measured and how far it lies from what was to be expected of the speaker
(emoray.stages.norms): nine measures in eleven steps each, then level, pitch and pace in their units. Nothing is said of
emotion, attitude or intention, which were not measured (docs/decisions/0028). The words of different measures differ,
so that a mean over token states keeps them apart: a linear probe on frozen MiniLM vectors of these texts reads the
deviations off again (a test holds it to that).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emoray.stages.deviations import deviations
from emoray.stages.norms import Expectation
from emoray.stages.prosodic_features import Measures

#: Steps away from what is expected, and the deviation in standard deviations from which on each is said.
STEPS_SD = {"slightly": 0.2, "somewhat": 0.6, "clearly": 1.1, "much": 1.7, "very much": 2.4}

#: Measure → what it is called, and its comparatives below and above what is expected.
NAMES: dict[str, tuple[str, str, str]] = {
    "level_db": ("voice", "quieter", "louder"),
    "pitch_st": ("pitch", "lower", "higher"),
    "range_st": ("melody", "narrower", "wider"),
    "rate_hz": ("pace", "slower", "faster"),
    "pause_share": ("pausing", "less", "more"),
    "slope_st_s": ("intonation", "more falling", "more rising"),
    "change_db_s": ("loudness", "more fading", "more swelling"),
    "voiced_share": ("voicing", "sparser", "denser"),
    "jitter_st": ("pitch line", "smoother", "rougher"),
}

#: Measure → its eleven phrases, from far below to far above what is expected.
WORDS: dict[str, tuple[str, ...]] = {
    name: (
        *(f"{noun} {step} {below}" for step in reversed(STEPS_SD)),
        f"{noun} as usual",
        *(f"{noun} {step} {above}" for step in STEPS_SD),
    )
    for name, (noun, below, above) in NAMES.items()
}


@dataclass(frozen=True)
class Cues:
    """A clip's delivery in words.

    Attributes:
        vocal_delivery: Every measure, compared with what is expected.
        summary: Level, pitch and pace compared with it, in units.
    """

    vocal_delivery: str
    summary: str

    @property
    def text(self) -> str:
        """What is embedded."""
        return f"{self.vocal_delivery} {self.summary}"


def describe(measures: Measures, expected: Expectation) -> Cues:
    """Put a clip's delivery into words.

    Args:
        measures: As measured (`emoray.stages.prosodic_features`).
        expected: As expected of the speaker, or of the corpus.
    """
    away = deviations(measures, expected)
    phrases = [WORDS[name][grade(away[name])] for name in WORDS if name in away]
    delivery = f"{', '.join(phrases)}." if phrases else "nothing measurable."
    return Cues(vocal_delivery=delivery[0].upper() + delivery[1:], summary=_in_units(measures, expected))


def grade(deviation_sd: float) -> int:
    """Grade 0..10 of a deviation; 5 is as expected."""
    steps = int(np.digitize(abs(deviation_sd), list(STEPS_SD.values())))
    return len(STEPS_SD) + (steps if deviation_sd > 0 else -steps)


def _in_units(measures: Measures, expected: Expectation) -> str:
    """Level in dB, pitch in half semitones and pace in steps of 5 percent, where they were measured."""
    away = {name: measures[name] - expected.mean[name] for name in measures if name in expected.mean}
    found = []
    if "level_db" in away:
        found.append(_amount(away["level_db"], 1.0, "dB", "level_db"))
    if "pitch_st" in away:
        found.append(_amount(away["pitch_st"], 0.5, "semitones", "pitch_st"))
    if "rate_hz" in away and expected.mean["rate_hz"] > 0:
        found.append(_amount(100 * away["rate_hz"] / expected.mean["rate_hz"], 5.0, "percent", "rate_hz"))
    habit = "the speaker's habit" if expected.clips else "the usual"
    said = ", ".join(part for part in found if part)
    return f"Compared with {habit}: {said or 'no difference'}." if found else "Nothing to compare."


def _amount(difference: float, step: float, unit: str, name: str) -> str | None:
    """An amount in whole steps and its direction; None where it rounds to none."""
    rounded = round(difference / step) * step
    _, below, above = NAMES[name]
    return f"{abs(rounded):g} {unit} {above if rounded > 0 else below}" if rounded else None
