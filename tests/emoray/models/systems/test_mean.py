from __future__ import annotations

import torch
from training_kit import model_config, random_batch

from emoray.models.build import build

NAN = float("nan")


def test_the_train_mean_ignores_missing_labels():
    model = build(model_config(name="mean"))
    model.fit(torch.tensor([[0.2, NAN, 0.5], [0.4, 0.6, 0.7]]), torch.tensor([-1, -1]))
    output = model(random_batch(2, 12))
    torch.testing.assert_close(output.prediction_B3, torch.tensor([[0.3, 0.6, 0.6]]).expand(2, 3))
    assert output.logits_BC is None


def test_a_dimension_without_labels_keeps_the_middle():
    model = build(model_config(name="mean"))
    model.fit(torch.tensor([[0.2, NAN, 0.5]]), torch.tensor([-1]))
    torch.testing.assert_close(model(random_batch(1, 12)).prediction_B3, torch.tensor([[0.2, 0.5, 0.5]]))


def test_it_says_each_class_as_often_as_it_occurs():
    model = build(model_config(name="mean", classes=["a", "b", "c"]))
    model.fit(torch.full((5, 3), NAN), torch.tensor([0, 1, 1, 1, -1]))
    torch.testing.assert_close(model(random_batch(2, 12)).logits_BC.softmax(-1)[1], torch.tensor([0.25, 0.75, 0.0]))


def test_it_has_nothing_to_train():
    assert not list(build(model_config(name="mean", classes=["a", "b"])).parameters())
