"""The baselines that every trained model is compared with, on the same clips."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from emoray.evaluation.baselines import BASELINE, FITTED_TO
from emoray.models.build import build
from emoray.models.config import ModelConfig
from emoray.models.systems.mean import TrainMean
from emoray.models.systems.statistics_svm import StatisticsSvm
from emoray.training.build import fit_to_clips
from emoray.training.data.training_set import TrainingSet
from emoray.training.predict import predict

#: Model → its name in predictions and reports.
BASELINES = {TrainMean: "train mean", StatisticsSvm: "statistics SVM"}


def predict_baselines(
    training_set: TrainingSet, model: ModelConfig, splits: Sequence[str], *, batch_size: int
) -> pl.DataFrame:
    """Fit the baselines to the train split, from its packed features, and predict the labelled clips of splits.

    Both read the sound alone, of unknown speakers. A waveform has no statistics that mean anything: with
    `encoder.kind: ssl` the train mean is alone.

    Returns:
        Predictions as of `emoray.training.predict.predict`, with the columns `baseline` and `fitted_to`.
    """
    names = ["mean", *(["statistics_svm"] if model.encoder.kind != "ssl" else [])]
    train_ids, ids = training_set.ids("train"), [name for split in splits for name in training_set.ids(split)]
    parts = []
    for name in names:
        encoder = model.encoder.model_copy(update={"speaker_norms": False})
        baseline = build(model.model_copy(update={"name": name, "encoder": encoder}))
        clips = fit_to_clips(baseline, training_set, train_ids)
        frame = predict(baseline, training_set, ids, "audio", batch_size=batch_size)
        label = pl.lit(BASELINES[type(baseline)])
        parts.append(frame.with_columns(label.alias(BASELINE), pl.lit(clips).alias(FITTED_TO)))
    return pl.concat(parts)
