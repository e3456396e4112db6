"""EMO-DB: what each model is, and the lines that are printed."""

from __future__ import annotations

import argparse

import pytest
from benchmarks.quality.emodb import AGAINST, MODELS, TITLES, configured, table
from benchmarks.quality.rows import configuration

from emoray.evaluation.intervals import Interval
from emoray.models.build import SOUND_ALONE


def test_every_model_that_hears_alone_is_there_with_a_head_for_the_classes() -> None:
    # Two need a pre-trained encoder, which is not to be had offline.
    assert {one["model"]["name"] for one in MODELS.values()} == SOUND_ALONE - {"challenge", "wav2vec2_dim"}
    sections = configuration(argparse.Namespace(lake=None, set=[]))
    for name in MODELS:
        model, train = configured(sections, name, 5)
        assert (model.name, len(model.classes), train.seed) == (MODELS[name]["model"]["name"], 4, 5)
        objective = train.objective
        assert (objective.ccc, objective.category, objective.region) == (0.0, 1.0, 0.0)
    assert configured(sections, "cnn14", 0)[0].encoder.cnn14.width == 0.25
    assert set(TITLES) == {*MODELS, "svm"}
    for name, other in AGAINST.items():
        pair = [configured(sections, one, 0)[0] for one in (name, other)]
        assert pair[0].encoder.kind == pair[1].encoder.kind


@pytest.mark.parametrize(("spread", "end"), [(0.0123, ", sd over seeds 0.012"), (None, "to 0.813")])
def test_a_line_holds_uar_its_interval_and_the_spread_of_several_seeds(spread: float | None, end: str) -> None:
    value = Interval(0.7591, 0.7134, 0.8128, 0.95, 189, 6, "speaker", spread)
    head, line = table({"acoustic": value}, 189, 6).splitlines()
    assert "189 clips of 6 speakers" in head
    assert line.split()[:6] == ["acoustic", "0.759", "95", "%", "interval", "0.713"]
    assert line.endswith(end)
