"""Real voices by folds of unseen speakers: predictions that are kept, and UAR with its intervals and differences."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from emoray.evaluation.intervals import Interval, interval, paired_difference
from emoray.evaluation.metrics import categorical
from emoray.lake.tables import Lake
from emoray.models.config import ModelConfig
from emoray.training.build import build_learner, plan_run
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.loader import LocalLoader
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import fit
from emoray.training.predict import predict

#: Raised when the same configuration would give other predictions.
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """A model and its training."""

    model: ModelConfig
    train: TrainConfig


def predicted(
    lake: Lake,
    training_set: TrainingSet,
    recipe: Recipe,
    launch: LaunchConfig,
    train_ids: Sequence[str],
    test_ids: Sequence[str],
) -> pl.DataFrame:
    """Train on some clips for the fixed number of epochs, keep the last weights, and predict others from their sound.

    What was predicted before comes from the lake.
    """
    content = [VERSION, training_set.set_hash, list(train_ids), list(test_ids)]
    content += [recipe.model.model_dump(mode="json"), recipe.train.model_dump(mode="json")]
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
    place = ("quality", f"fold-{recipe.model.name}-{digest}.parquet")
    if lake.exists(*place):
        return pl.read_parquet(lake.read_bytes(*place))
    plan = plan_run(training_set, train_ids, recipe.model, recipe.train)
    learner = build_learner(training_set, train_ids, recipe.model, recipe.train, launch, total_steps=plan.num_rows)
    epochs = itertools.count()
    loader = LocalLoader(training_set, recipe.train)
    fit(learner, plan, loader, lambda _: {"score": next(epochs)})  # the last epoch is best
    frame = predict(learner.model, training_set, test_ids, "audio", batch_size=launch.eval_batch_size)
    lake.write_parquet(frame.to_arrow(), *place)
    return frame


def ids_of(training_set: TrainingSet, folds: Sequence[int]) -> list[str]:
    """Clips of some folds."""
    return training_set.frame.filter(pl.col("fold").is_in(list(folds)))["utterance_id"].to_list()


def uar(runs: Sequence[pl.DataFrame], classes: Sequence[str]) -> Interval:
    """UAR over pooled predictions of all folds, mean over the runs, its interval over speakers."""
    return interval(categorical("ua", classes), [run.sort("utterance_id") for run in runs], level=0.95)


def uar_gain(runs: Sequence[pl.DataFrame], base: Sequence[pl.DataFrame], classes: Sequence[str]) -> Interval:
    """UAR of runs less that of others on the same clips."""
    one, other = ([run.sort("utterance_id") for run in some] for some in (runs, base))
    return paired_difference(categorical("ua", classes), one, other, level=0.95)


def line(name: str, value: Interval, sign: str = "") -> str:
    """A printed line: estimate, interval, spread of several seeds."""
    spread = "" if value.seed_sd is None else f", sd over seeds {value.seed_sd:.3f}"
    low, high = f"{value.low:{sign}.3f}", f"{value.high:{sign}.3f}"
    return f"{name:26s} {value.estimate:{sign}.3f}  95 % interval {low} to {high}{spread}"


def by_fold(runs: Sequence[pl.DataFrame], classes: Sequence[str]) -> list[float]:
    """UAR of each fold in order, mean over the runs."""
    metric = categorical("ua", classes)
    values = [[metric(part) for part in run.sort("fold").partition_by("fold", maintain_order=True)] for run in runs]
    return [sum(fold) / len(fold) for fold in zip(*values, strict=True)]
