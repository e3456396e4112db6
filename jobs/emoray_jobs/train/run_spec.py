"""What defines a training run; its workers get it."""

from __future__ import annotations

from dataclasses import dataclass

from emoray.corpora.folds import Fold
from emoray.lake.tables import LakeConfig
from emoray.models.config import ModelConfig
from emoray.training.config import LaunchConfig, TrainConfig


@dataclass(frozen=True)
class RunSpec:
    """What defines a training run.

    Attributes:
        run: Name of the run; its folder is `checkpoints/<run>/`.
        training_set: Hash of the packed training set.
        plan: Path of the batch plan below the lake's root.
        fold: The fold whose splits apply; None for the corpus's own.
    """

    lake: LakeConfig
    run: str
    model: ModelConfig
    train: TrainConfig
    launch: LaunchConfig
    training_set: str
    plan: str
    fold: Fold | None = None
