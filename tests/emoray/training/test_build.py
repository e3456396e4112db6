"""The objective is decided by the labels that are there."""

from __future__ import annotations

import pytest
from error_kit import of_kind
from training_kit import model_config, pack_rows, planted_rows, train_config

from emoray.errors import TrainingError
from emoray.training.build import decide_objective
from emoray.training.data.training_set import TrainingSet

CLASSES = ["low", "high"]
UNLABELLED = {"valence": None, "arousal": None, "dominance": None}


@pytest.fixture
def decide(tmp_path):
    """The weights of CCC and classes for rows with some labels, and a model with some classes."""

    def run(labels, classes, model="acoustic", **objective):
        rows = [row | labels for row in planted_rows(12, seed=0)]
        config = model_config(name=model, classes=classes)
        lake, set_hash = pack_rows(str(tmp_path), rows, config)
        training_set = TrainingSet.open(lake, set_hash, classes=classes)
        train = train_config(objective={"category": None, **objective})
        decided = decide_objective(training_set, training_set.ids("train", labelled=False), config, train).objective
        return decided.ccc, decided.category

    return run


@pytest.mark.parametrize(
    ("labels", "classes", "weights"),
    [({}, [], (1, 0)), ({}, CLASSES, (1, 0)), (UNLABELLED, CLASSES, (0, 1))],
)
def test_classes_count_by_default_where_there_is_nothing_else(decide, labels, classes, weights):
    assert decide(labels, classes) == weights


def test_a_weight_that_is_given_stays(decide):
    assert decide({}, CLASSES, category=0.5) == (1, 0.5)


@pytest.mark.parametrize(
    ("labels", "classes", "objective"),
    [
        (UNLABELLED, [], {}),
        (UNLABELLED, ["other", "names"], {}),
        (UNLABELLED, CLASSES, {"category": 0.0}),
        ({"emotion": None}, CLASSES, {"ccc": 0.0, "category": 1.0}),
    ],
)
def test_an_objective_without_labels_is_refused(decide, labels, classes, objective):
    with pytest.raises(TrainingError, check=of_kind("empty_objective")):
        decide(labels, classes, **objective)


def test_the_train_mean_has_no_objective(decide):
    assert decide(UNLABELLED, [], model="mean") == (1, 0)
