"""How often the gate lets an equal model in, and how often one whose errors are 10 or 30 % smaller.

    python -m benchmarks.quality.gate [--series 2000] [--out FILE]

One champion meets ten challengers, one after another, on the same gate clips: so many speakers, and twelve groups that
are compared as well. A series of equal challengers fails if any of them becomes champion. The policy is the preset's.

The rules on predictions are computed here for many series at once, from sums per speaker and group; a test holds them
against `emoray.registry.gate.decide`. Shapes: S series, U speakers, G groups, C clips of a speaker in a group, K
challengers, D dimensions, M moments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtr, stdtrit

from emoray.config import read_preset
from emoray.evaluation.metrics import ccc_of
from emoray.registry.config import GateConfig

SPEAKERS = (4, 8, 16)
GROUPS = 12
CLIPS = 8  # of a speaker in a group: 32 clips per group with four speakers
ATTEMPTS = 10
AT_ONCE = 50
POLICY = GateConfig(**read_preset("laptop")["promote"])

Clips = tuple[np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, series: int, speakers: int, challengers: int, better: float = 0.0) -> Clips:
    """Labels and predictions in three dimensions; errors have a part that all models share and one of their own.

    Args:
        better: By which share a challenger's errors are smaller than the champion's.

    Returns:
        Labels (S, U, G, C, D), and predictions (K + 1, S, U, G, C, D), the champion's first.
    """
    shape = (series, speakers, GROUPS, CLIPS, 3)

    def effect(own: float, shared: float) -> np.ndarray:
        return rng.normal(0, shared, (series, speakers, 1, 1, 3)) + rng.normal(0, own, shape)

    label, common = effect(0.12, 0.08), effect(0.05, 0.05)
    predictions = np.empty((challengers + 1, *shape))
    for model in range(challengers + 1):
        error = common + effect(0.05, 0.05)
        predictions[model] = 0.7 * label + (error if model == 0 else (1 - better) * error)
    return label, predictions


def moments(clips: Clips) -> np.ndarray:
    """Sums over the clips of a speaker in a group: (K + 1, S, U, G, D, M)."""
    label, predictions = clips
    y = np.broadcast_to(label, predictions.shape)
    parts = (np.ones_like(predictions), predictions, y, predictions**2, y**2, predictions * y)
    return np.stack([part.sum(axis=4) for part in parts], axis=-1)


def differences(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CCC of each challenger less the champion's, and the jackknife's error: (K, S, …, D + 1), the mean last.

    Args:
        sums: (K + 1, S, U, …, D, M); the third axis is left out, one speaker at a time.
    """

    def gain(parts: np.ndarray) -> np.ndarray:
        ccc = ccc_of(parts)
        ccc = np.concatenate([ccc, ccc.mean(axis=-1, keepdims=True)], axis=-1)
        return ccc[1:] - ccc[:1]

    total = sums.sum(axis=2, keepdims=True)
    without = gain(total - sums)
    count = without.shape[2]
    spread = np.sum((without - without.mean(axis=2, keepdims=True)) ** 2, axis=2)
    return gain(total)[:, :, 0], np.sqrt((count - 1) / count * spread)


def rules(clips: Clips, attempts: Sequence[int], policy: GateConfig = POLICY) -> dict[str, np.ndarray]:
    """Whether each challenger keeps each rule on predictions: (K, S) by the rule's name.

    Args:
        attempts: Number of each challenger among those of the champion.
    """
    sums = moments(clips)
    freedom = sums.shape[2] - 1
    estimate, error = differences(sums.sum(axis=3))
    levels = np.array([policy.gain_level(attempt) for attempt in attempts])[:, None]
    low = estimate[..., -1] - stdtrit(freedom, (1 + levels) / 2) * error[..., -1]
    lossless = estimate - stdtrit(freedom, (1 + policy.noninferiority_level) / 2) * error
    margins = np.array([policy.max_loss[name] for name in ("valence", "arousal", "dominance")])
    found = {
        "gain": (estimate[..., -1] >= policy.min_gain) & (low > policy.min_lower_bound),
        "dimensions": (lossless[..., :-1] > -margins).all(axis=-1),
    }
    by_group, error = (values[..., -1] for values in differences(sums))
    p_values = stdtr(freedom, by_group / error)
    # Holm: the i-th smallest p-value counts for all that are not smaller, times how many of them there are.
    order = np.argsort(p_values, axis=-1)
    factors = GROUPS - np.arange(GROUPS)
    ordered = np.maximum.accumulate(np.take_along_axis(p_values, order, -1) * factors, axis=-1)
    loss = np.take_along_axis(by_group, order, -1) < -policy.max_group_loss
    alpha = 1 - policy.interval_level
    found["groups"] = ~((ordered < alpha) & loss).any(axis=-1)
    found["groups, uncorrected"] = ~((p_values < alpha) & (by_group < 0)).any(axis=-1)
    return found


def passed(found: dict[str, np.ndarray]) -> np.ndarray:
    """Whether a challenger passes: (K, S)."""
    return found["gain"] & found["dimensions"] & found["groups"]


def measure(series: int) -> dict[str, dict[str, float]]:
    """Shares by number of speakers, and by what is counted."""
    numbers = list(range(1, ATTEMPTS + 1))
    result: dict[str, dict[str, float]] = {}
    for speakers in SPEAKERS:
        rng = np.random.default_rng(speakers)
        hits: dict[str, float] = {}
        for _ in range(series // AT_ONCE):
            equal = draw(rng, AT_ONCE, speakers, ATTEMPTS)
            counted, uncounted = rules(equal, numbers), rules(equal, [1] * ATTEMPTS)
            better, much = (rules(draw(rng, AT_ONCE, speakers, 2, by), [1, 5]) for by in (0.1, 0.3))
            happened = {
                "equal: one of ten promoted": passed(counted).any(axis=0),
                "equal: first promoted": passed(counted)[0],
                "equal: one of ten gains": counted["gain"].any(axis=0),
                "equal: one of ten gains, attempts not counted": uncounted["gain"].any(axis=0),
                "equal: first refused by a group": ~counted["groups"][0],
                "equal: first has a group that is worse, uncorrected": ~counted["groups, uncorrected"][0],
                "10 % smaller errors: first promoted": passed(better)[0],
                "10 % smaller errors: gain": better["gain"][0],
                "10 % smaller errors: no dimension worse": better["dimensions"][0],
                "30 % smaller errors: first promoted": passed(much)[0],
                "30 % smaller errors: gain": much["gain"][0],
                "30 % smaller errors: fifth promoted": passed(much)[1],
            }
            for what, so in happened.items():
                hits[what] = hits.get(what, 0) + float(so.sum())
        result[str(speakers)] = {what: count / (series // AT_ONCE * AT_ONCE) for what, count in hits.items()}
        sys.stderr.write(f"{speakers} speakers: done\n")
    return result


def page(found: dict[str, dict[str, float]]) -> str:
    """The table: a row per thing that is counted, a column per number of speakers."""
    lines = [
        f"| share | {' | '.join(f'{count} speakers' for count in found)} |",
        "|---" * (len(found) + 1) + "|",
    ]
    rows = next(iter(found.values()))
    lines += [f"| {what} | {' | '.join(f'{one[what]:.3f}' for one in found.values())} |" for what in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the shares")
    options = parser.parse_args(arguments)
    found = measure(options.series)
    print(page(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
