"""cues: measured prosody put into words, without a model.

Each measure's deviation from what was to be expected of the speaker (emoray.stages.norms), in standard deviations, is
graded in nine steps. The words of different measures differ, so that a mean over token states keeps them apart: a
linear probe on frozen MiniLM vectors of these texts reads the deviations off again (a test holds it to that).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emoray.stages.norms import Expectation
from emoray.stages.prosodic_features import Measures
from emoray.stages.semantics.record import SemanticsRecord

#: Upper bounds of the first eight grades, in standard deviations.
GRADES_SD = (-2.1, -1.4, -0.8, -0.27, 0.27, 0.8, 1.4, 2.1)

#: Measure → its nine grades, lowest first.
WORDS: dict[str, tuple[str, ...]] = {
    "pitch_st": (
        "booming deep voice",
        "very deep voice",
        "deep voice",
        "rather deep voice",
        "usual voice",
        "rather high voice",
        "high voice",
        "very high voice",
        "shrieking high voice",
    ),
    "level_db": (
        "whispering",
        "very quiet",
        "quiet",
        "rather quiet",
        "normally loud",
        "rather loud",
        "loud",
        "very loud",
        "shouting",
    ),
    "rate_hz": (
        "crawling",
        "very slow",
        "slow",
        "rather slow",
        "steady pace",
        "rather fast",
        "fast",
        "very fast",
        "racing",
    ),
    "range_st": (
        "monotone",
        "very flat melody",
        "flat melody",
        "rather flat melody",
        "normal melody",
        "rather lively melody",
        "lively melody",
        "very lively melody",
        "swooping melody",
    ),
    "slope_st_s": (
        "plunging",
        "steeply falling",
        "falling",
        "slightly falling",
        "level",
        "slightly rising",
        "rising",
        "steeply rising",
        "soaring",
    ),
    "change_db_s": (
        "dying away",
        "fading much",
        "fading",
        "fading a little",
        "even",
        "swelling a little",
        "swelling",
        "swelling much",
        "bursting out",
    ),
    "pause_share": (
        "breathless",
        "hardly pausing",
        "few pauses",
        "rather few pauses",
        "some pauses",
        "rather many pauses",
        "many pauses",
        "very many pauses",
        "halting",
    ),
    "voiced_share": (
        "toneless",
        "very breathy",
        "breathy",
        "rather breathy",
        "clear",
        "rather sonorous",
        "sonorous",
        "very sonorous",
        "humming",
    ),
    "jitter_st": (
        "perfectly smooth",
        "very smooth",
        "smooth",
        "rather smooth",
        "firm",
        "rather rough",
        "rough",
        "very rough",
        "trembling",
    ),
}


def deviations(measures: Measures, expected: Expectation) -> Measures:
    """How far each measure lies from what was expected, in standard deviations."""
    return {
        name: (measures[name] - expected.mean[name]) / expected.sd[name]
        for name in WORDS
        if name in measures and name in expected.mean
    }


def describe(measures: Measures, expected: Expectation) -> SemanticsRecord:
    """Put a clip's delivery into words.

    Args:
        measures: As measured (`emoray.stages.prosodic_features`).
        expected: As expected of the speaker, or of the corpus.
    """
    away = deviations(measures, expected)
    phrases = [WORDS[name][grade(value)] for name, value in away.items()]
    delivery = f"{', '.join(phrases)}." if phrases else "nothing measurable."
    activation = _mean(away, {"rate_hz": 1.0, "level_db": 1.0, "range_st": 1.0})
    assertion = _mean(away, {"pitch_st": -1.0})
    return SemanticsRecord(
        emotion=_scale(activation, ("lethargic", "subdued", "calm", "neutral", "animated", "excited", "frantic")),
        intensity=min(1.0, abs(activation) / 2.5),
        attitude=_scale(
            assertion, ("submissive", "timid", "hesitant", "matter-of-fact", "assured", "commanding", "domineering")
        ),
        intention="asking" if away.get("slope_st_s", 0.0) > 1.4 else "telling",
        vocal_delivery=delivery[0].upper() + delivery[1:],
        summary=_pitch_sentence(measures, expected),
    )


def grade(deviation_sd: float) -> int:
    """Grade 0..8 of a deviation; 4 is as expected."""
    return int(np.digitize(deviation_sd, GRADES_SD))


def _pitch_sentence(measures: Measures, expected: Expectation) -> str:
    """The pitch against the habit, in semitones: the cue that listeners hold against the speaker's own voice."""
    habit = "the speaker's habit" if expected.clips else "the usual"
    if "pitch_st" not in measures or "pitch_st" not in expected.mean:
        return "Pitch not measurable."
    steps = round(2 * (measures["pitch_st"] - expected.mean["pitch_st"])) / 2
    if steps == 0:
        return f"Pitch at {habit}."
    return f"Pitch {abs(steps):g} semitones {'above' if steps > 0 else 'below'} {habit}."


def _mean(away: Mapping[str, float], weights: Mapping[str, float]) -> float:
    known = [away[name] * weight for name, weight in weights.items() if name in away]
    return float(np.mean(known)) if known else 0.0


def _scale(value: float, words: tuple[str, ...]) -> str:
    """One of seven words for a deviation, in steps of two thirds of a standard deviation."""
    return words[int(np.clip(round(value / 0.67), -3, 3)) + 3]
