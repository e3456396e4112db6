from __future__ import annotations

import polars as pl
import pytest
from training_kit import model_config, pack_rows, planted_rows

from emoray.training.baselines import predict_baselines
from emoray.training.data.training_set import TrainingSet
from emoray.training.predict import summarise

CLASSES = ["low", "high"]


@pytest.mark.parametrize("name", ["acoustic", "msf_ser"])
def test_baselines_are_fitted_to_train_alone_and_predict_the_other_splits(tmp_path, name):
    """Arousal, and with it the class, is in the loudness (`planted_rows`)."""
    rows = planted_rows(120, seed=4)
    for number, row in enumerate(row for row in rows if row["split"] == "dev"):
        row["split"] = "test" if number % 2 else "dev"
    config = model_config(name=name, classes=CLASSES, statistics_svm={"max_clips": 70})
    lake, set_hash = pack_rows(str(tmp_path), rows, config)
    training_set = TrainingSet.open(lake, set_hash, classes=CLASSES)
    frame = predict_baselines(training_set, config, ["dev", "test"], batch_size=16)
    assert frame.group_by("baseline", "split").len()["len"].unique().to_list() == [15]
    assert frame.group_by("baseline").agg(pl.col("fitted_to").first()).sort("baseline")["fitted_to"].to_list() == [
        70,
        90,
    ]
    test = {name: part for (name,), part in frame.filter(split="test").partition_by("baseline", as_dict=True).items()}
    assert summarise(test["statistics SVM"], CLASSES)["ccc_arousal"] > 0.8
    assert summarise(test["train mean"], CLASSES)["ccc_arousal"] == pytest.approx(0, abs=1e-6)
