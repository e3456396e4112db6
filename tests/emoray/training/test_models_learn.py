"""Each model finds what was planted in its parts: arousal in the sound, valence and dominance in the text."""

from __future__ import annotations

import pytest
from training_kit import NO_DROPOUT, model_config, pack_rows, planted_rows, run_fit, train_config

from emoray.config import merge

TRAIN = {"epochs": 12, "plan": {"batch_size": 24, "buckets": 1}, "augment": {"modality_dropout": 0.0}}
CNN14 = {"kind": "cnn14", "cnn14": {"width": 1 / 16}}
#: Least and most CCC of (valence, arousal, dominance). Late fusion averages a branch that knows a dimension with one
#: that does not: a constant would leave half the labels' spread and 2 · ½ / (1 + ¼) = .8, noise less.
EXPECTED = {
    "multistage": ((0.9, 0.9, 0.9), (1.0, 1.0, 1.0)),
    "single_stage": ((0.9, 0.9, 0.9), (1.0, 1.0, 1.0)),
    "late_fusion": ((0.4, 0.4, 0.4), (0.85, 0.85, 0.85)),
    "cnn14": ((-0.4, 0.8, -0.4), (0.4, 1.0, 0.4)),
    "emosphere": ((-0.4, 0.9, -0.4), (0.4, 1.0, 0.4)),
    "text": ((0.9, -0.4, 0.9), (1.0, 0.4, 1.0)),
}


def trained(tmp_path, name: str, rows: list[dict], **changes):
    encoder = {} if name in ("emosphere", "text") else {"encoder": CNN14}
    model = model_config(**merge(merge(NO_DROPOUT, {"name": name, "hidden": 32, **changes}), encoder))
    lake, set_hash = pack_rows(str(tmp_path), rows, model)
    objective = {"ccc": 0.0, "category": 1.0} if model.classes else {}
    train = train_config(**TRAIN, objective=objective, optimizer={"lr": 5e-3})
    _, result = run_fit(lake, set_hash, model, train)
    return result.history[result.best_epoch]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_learns_what_its_parts_can_know(tmp_path, name):
    metrics = trained(tmp_path, name, planted_rows(160, seed=3))
    for dimension, least, most in zip(("valence", "arousal", "dominance"), *EXPECTED[name], strict=True):
        assert least < metrics[f"ccc_{dimension}"] <= most, dimension


@pytest.mark.parametrize("name", ["cnn14", "multistage", "late_fusion", "emosphere"])
def test_a_model_learns_classes_alone(tmp_path, name):
    rows = [row | dict.fromkeys(("valence", "arousal", "dominance")) for row in planted_rows(160, seed=4)]
    assert trained(tmp_path, name, rows, classes=["low", "high"])["uar"] > 0.85
