"""The simulation of the gate applies the gate's own rules."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from benchmarks.quality import gate as simulation

from emoray.registry.candidate import Candidate, Latency
from emoray.registry.gate import decide
from emoray.schema import DIMENSIONS

POLICY = simulation.POLICY.model_copy(update={"group_columns": ("group",), "clean_process": False, "same": ()})


def frame(label: np.ndarray, prediction: np.ndarray) -> pl.DataFrame:
    """One series as the gate reads it: arrays (U, G, C, D)."""
    speakers, groups, clips = np.indices(label.shape[:-1]).reshape(3, -1)
    columns = {f"{name}_true": label[..., place].ravel() for place, name in enumerate(DIMENSIONS)}
    columns |= {f"{name}_pred": prediction[..., place].ravel() for place, name in enumerate(DIMENSIONS)}
    keys = pl.DataFrame({"speaker_id": speakers, "group": groups, "clip": clips}).cast(pl.String)
    names = pl.format("{}-{}-{}", *keys.columns).alias("utterance_id")
    given = {"split": pl.lit("gate"), "level": pl.lit("full")}
    return keys.with_columns(names, **given).hstack(pl.DataFrame(columns))


@pytest.mark.parametrize("better", [0.0, 0.5])
def test_its_rules_are_those_of_the_gate(better):
    rng = np.random.default_rng(3)
    label, predictions = simulation.draw(rng, 3, 4, 4, better)
    # One challenger that is bad in a group, so that each rule has both outcomes.
    predictions[4, :, :, 5] = rng.normal(0, 0.3, predictions[4, :, :, 5].shape)
    found = simulation.rules((label, predictions), range(1, 5), POLICY)
    outcomes = set()
    for series in range(3):
        champion = Candidate([frame(label[series], predictions[0, series])], Latency(1, 1, 1))
        for number in range(4):
            challenger = Candidate([frame(label[series], predictions[number + 1, series])], Latency(1, 1, 1))
            decision = decide(challenger, champion, POLICY, clean=None, attempt=number + 1)
            checks = {check.name: check.passed for check in decision.checks}
            for name in ("gain", "dimensions", "groups"):
                assert checks[name] == found[name][number, series], name
                outcomes.add((name, checks[name]))
            assert decision.passed == simulation.passed(found)[number, series]
    assert ("groups", False) in outcomes
    assert ("groups", True) in outcomes
