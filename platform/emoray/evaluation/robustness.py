"""Robustness: how a version's scores change as its input gets worse, condition by condition.

Every condition scores the same clips, so its loss compared with the clean ones is a paired difference over speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emoray.audio.degrade import add_noise, at_speed, through_codec
from emoray.config import Section
from emoray.stages.base import WAVEFORM, Row

#: Kind of condition → the meaning of its amount.
KINDS = {
    "noise": "signal-to-noise ratio, dB",
    "speed": "speed",
    "words": "word errors planted, share of words",
    "codec": "codec",
    "semantics": "what the version is given",
}
#: Kinds whose amounts are on an axis.
CURVES = ("noise", "speed", "words")


class RobustnessConfig(Section):
    """The conditions that a version is tested with.

    Attributes:
        clips: Test clips at most, spread over the split.
        seed: Of noise and word errors.
        snr_db: Signal-to-noise ratios of white noise, dB.
        codecs: Names from `emoray.audio.degrade.CODECS`.
        speeds: Factors of speed; pitch moves along.
        word_errors: Shares of the given transcript's words to replace or drop; for versions that read transcripts.
    """

    clips: int
    seed: int
    snr_db: tuple[float, ...]
    codecs: tuple[str, ...]
    speeds: tuple[float, ...]
    word_errors: tuple[float, ...]


@dataclass(frozen=True)
class Condition:
    """One degradation of clips.

    Attributes:
        kind: One of `KINDS`; `clean` for the clips as they are.
        amount: How much, on the kind's axis; None if it has none.
        change: Returns a degraded row; its argument does not change.
    """

    kind: str
    amount: float | None
    name: str
    change: Callable[[Row], Row]


def conditions(config: RobustnessConfig, vocabulary: Sequence[str], *, reads_words: bool) -> list[Condition]:
    """Conditions in the order of the page, the clean one first.

    Words are replaced by others of `vocabulary`. `reads_words`: the version reads the given transcript; one with its
    own recogniser gets its word errors from the noise.
    """

    def on_samples(change: Callable[[np.ndarray, Row], np.ndarray]) -> Callable[[Row], Row]:
        return lambda row: {**row, WAVEFORM: change(row[WAVEFORM], row)}

    def noise(snr_db: float) -> Callable[[Row], Row]:
        return on_samples(lambda samples, row: add_noise(samples, snr_db, _random(config.seed, row)))

    def codec(name: str) -> Callable[[Row], Row]:
        return on_samples(lambda samples, _: through_codec(samples, name))

    found = [Condition("clean", None, "as they are", lambda row: row)]
    found += [Condition("noise", snr, f"white noise, {snr:g} dB", noise(snr)) for snr in config.snr_db]
    found += [Condition("codec", None, name, codec(name)) for name in config.codecs]
    found += [Condition("speed", factor, f"speed {factor:g}", _speed(factor)) for factor in config.speeds]
    if reads_words:
        found += [
            Condition("words", share, f"{100 * share:g} % of words wrong", _words(share, vocabulary, config.seed))
            for share in config.word_errors
        ]
    return found


def _speed(factor: float) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        words = row.get("words")
        if words is not None:
            words = [{**word, **{end: _scaled(word[end], factor) for end in ("start_s", "end_s")}} for word in words]
        return {**row, WAVEFORM: at_speed(row[WAVEFORM], factor), "words": words}

    return change


def _scaled(time_s: float | None, factor: float) -> float | None:
    return None if time_s is None else time_s / factor


def _words(share: float, vocabulary: Sequence[str], seed: int) -> Callable[[Row], Row]:
    """Two of three errors replace the word, the third drops it; the other words keep their times."""

    def change(row: Row) -> Row:
        random = _random(seed, row)
        timed = row.get("words")
        words: list[dict[str, Any]] = timed or [{"word": word} for word in (row.get("transcript") or "").split()]
        kept = []
        for word in words:
            wrong, which, other = random.random(), random.random(), int(random.integers(max(1, len(vocabulary))))
            if wrong >= share:
                kept.append(word)
            elif which < 2 / 3 and vocabulary:
                kept.append({**word, "word": vocabulary[other]})
        transcript = " ".join(word["word"] for word in kept)
        return {**row, "transcript": transcript or None, "words": kept if timed and kept else None}

    return change


def _random(seed: int, row: Row) -> np.random.Generator:
    """A clip's own generator: its noise does not depend on the other clips."""
    return np.random.default_rng([seed, *str(row["utterance_id"]).encode()])
