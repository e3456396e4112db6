"""How often the intervals hold what they promise, by number of speakers; and how often an equal model is promoted.

    python -m benchmarks.quality.coverage [--trials 1000] [--out FILE]

Speakers are drawn from populations whose true values are known: labels and errors with a part of the speaker's own (so
clips of a speaker resemble each other), and classes that some speakers' voices make easy. Each trial draws new
speakers, and asks whether the 95 % interval of CCC, UAR, WA or a paired difference holds the population's value. An
equal model that passes the gate's gain check (`promote` as shipped) is a false promotion. The percentile bootstrap over
speakers, which others use, stands beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from emoray.config import read_preset
from emoray.evaluation.intervals import clusters, interval, paired_difference
from emoray.evaluation.metrics import Metric, categorical, dimensional

SPEAKERS = (2, 4, 8, 16, 50)
CLIPS = 20
CLASSES = ("anger", "happiness", "neutral", "sadness")
POPULATION = 40_000
RESAMPLES = 500

CCC = dimensional("ccc", "valence")
UAR, WA = categorical("ua", CLASSES), categorical("wa", CLASSES)


def dimensions(rng: np.random.Generator, speakers: int) -> pl.DataFrame:
    """Labels with two equally good predictions, whose errors are partly the same."""
    clips = speakers * CLIPS

    def effect(own: float, shared: float) -> np.ndarray:
        return np.repeat(rng.normal(0, shared, speakers), CLIPS) + rng.normal(0, own, clips)

    label, common = effect(0.12, 0.08), effect(0.05, 0.05)
    columns = {name: 0.5 + 0.7 * label + common + effect(0.05, 0.05) for name in ("pred", "other")}
    return pl.DataFrame({"valence_true": 0.5 + label, **columns})


def classes(rng: np.random.Generator, speakers: int) -> pl.DataFrame:
    """Classes with two equally good predictions: how often they are right depends on the speaker and on the class."""
    true = rng.choice(len(CLASSES), speakers * CLIPS, p=(0.4, 0.1, 0.3, 0.2))
    ease = np.repeat(rng.normal(0.6, 0.8, speakers), CLIPS) + np.array([0.5, -0.5, 0.3, 0.0])[true]
    columns = {}
    for name in ("pred", "other"):
        right = rng.random(true.size) < 1 / (1 + np.exp(-ease))
        wrong = (true + rng.integers(1, len(CLASSES), true.size)) % len(CLASSES)
        columns[name] = np.array(CLASSES)[np.where(right, true, wrong)]
    return pl.DataFrame({"emotion_true": np.array(CLASSES)[true], **columns})


def sides(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The predictions of the two models."""
    target = next(name for name in frame.columns if name.endswith("_true"))
    kind = target.removesuffix("_true")
    named = frame.with_columns(
        pl.int_range(pl.len()).cast(pl.String).str.zfill(7).alias("utterance_id"),
        (pl.int_range(pl.len()) // CLIPS).cast(pl.String).alias("speaker_id"),
    )
    kept = ["utterance_id", "speaker_id", target]
    one, other = (named.select(*kept, pl.col(name).alias(f"{kind}_pred")) for name in ("pred", "other"))
    return one, other


def percentile_bootstrap(metric: Metric, frame: pl.DataFrame, rng: np.random.Generator) -> tuple[float, float]:
    """The usual 95 % interval: speakers are drawn with replacement."""
    groups = clusters(frame)
    per_clip = metric.per_clip(frame)
    sums_US = np.stack([per_clip[groups.codes == unit].sum(axis=0) for unit in range(groups.n_units)])
    counts_RU = rng.multinomial(groups.n_units, np.full(groups.n_units, 1 / groups.n_units), RESAMPLES)
    low, high = np.nanquantile(metric.value(counts_RU @ sums_US), [0.025, 0.975])
    return float(low), float(high)


def measure(trials: int) -> dict[str, dict[str, float]]:
    """Shares by number of speakers, and by what is counted."""
    cases: dict[str, tuple[Callable[[np.random.Generator, int], pl.DataFrame], Metric]] = {
        "CCC": (dimensions, CCC),
        "UAR": (classes, UAR),
        "WA": (classes, WA),
    }
    gate = read_preset("laptop")["promote"]
    truth = {
        name: metric(sides(draw(np.random.default_rng(1), POPULATION))[0]) for name, (draw, metric) in cases.items()
    }
    found: dict[str, dict[str, float]] = {}
    for speakers in SPEAKERS:
        rng = np.random.default_rng(speakers)
        hits: dict[str, int] = {}
        for _ in range(trials):
            for name, (draw, metric) in cases.items():
                one, other = sides(draw(rng, speakers))
                own = interval(metric, one)
                usual = percentile_bootstrap(metric, one, rng)
                difference = paired_difference(metric, one, other)
                happened = {
                    name: own.low <= truth[name] <= own.high,
                    f"{name}, percentile bootstrap": usual[0] <= truth[name] <= usual[1],
                    f"{name}, paired difference": difference.low <= 0 <= difference.high,
                }
                if metric is CCC:
                    gained = difference.estimate >= gate["min_gain"] and difference.low > gate["min_lower_bound"]
                    happened["false promotions"] = gained
                for what, so in happened.items():
                    hits[what] = hits.get(what, 0) + bool(so)
        found[str(speakers)] = {what: count / trials for what, count in hits.items()}
        sys.stderr.write(f"{speakers} speakers: done\n")
    return found


def page(found: dict[str, dict[str, float]]) -> str:
    """The table: a row per thing that is counted, a column per number of speakers."""
    lines = [
        f"| 95 % interval of | {' | '.join(f'{count} speakers' for count in found)} |",
        "|---" * (len(found) + 1) + "|",
    ]
    lines += [
        f"| {what} | {' | '.join(f'{row[what]:.3f}' for row in found.values())} |"
        for what in next(iter(found.values()))
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the shares")
    options = parser.parse_args(arguments)
    found = measure(options.trials)
    print(page(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
