"""How every training begins: fresh weights, and all that is fitted to the labels of the train split."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from emoray.models.build import build
from emoray.models.config import ModelConfig
from emoray.models.mean import TrainMean
from emoray.training.config import TrainConfig
from emoray.training.objectives import RegionTargets, class_weights
from emoray.training.seeds import seed_torch
from emoray.training.step import Learner
from emoray.training.training_set import TrainingSet


def begin(
    training_set: TrainingSet,
    ids: Sequence[str],
    model: ModelConfig,
    config: TrainConfig,
    *,
    total_steps: int,
    device: torch.device | str = "cpu",
) -> Learner:
    """A learner at step 0.

    Args:
        training_set: Where the labels are, opened with the model's classes.
        ids: Clips to train on: class weights, region weights and the train mean come from their labels.
        model: The model to build; its weights depend on the seed alone.
        config: Seed, objective and optimiser.
        total_steps: Steps of the whole run.
        device: Where to train.
    """
    seed_torch(config.seed, "weights")
    built, target_N3, label_N = build(model), training_set.targets(ids), training_set.labels(ids)
    if isinstance(built, TrainMean):
        built.fit(target_N3, label_N)
    return Learner(
        built,
        config,
        total_steps=total_steps,
        device=device,
        class_weight_C=class_weights(label_N, len(model.classes)) if model.classes else None,
        regions=RegionTargets.fit(target_N3, model.emosphere.regions) if model.name == "emosphere" else None,
    )
