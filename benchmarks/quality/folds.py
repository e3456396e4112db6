"""Real voices by folds of unseen speakers: predictions that are kept, and UAR with its intervals and differences."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from benchmarks.quality.rows import Sections

from emoray.evaluation.intervals import Interval, interval, paired_difference
from emoray.evaluation.metrics import categorical
from emoray.lake.tables import Lake
from emoray.models.config import ModelConfig
from emoray.stages.base import WAVEFORM
from emoray.stages.conditions import Condition, FittedCondition
from emoray.stages.decode import Decode
from emoray.stages.norms import Norms
from emoray.stages.pipeline import annotate_rows
from emoray.stages.prosody import MeasureProsody
from emoray.training.build import build_learner, fit_to_clips, plan_run
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.loader import LocalLoader
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import fit
from emoray.training.predict import predict

#: Clips in memory while their prosody is measured.
CLIPS_AT_ONCE = 64
#: Raised when the same configuration would give other predictions.
VERSION = 3


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
    conditions: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Train on some clips for the fixed number of epochs, keep the last weights, and predict others from their sound.

    What was predicted before comes from the lake.

    Args:
        conditions: Under which the others are predicted, the training set's first one if left out. Support vector
            machines see the clips that they are fitted to under the first of them.

    Returns:
        Predictions, with the condition after a slash as their `level`.
    """
    conditions = list(conditions or training_set.conditions[:1])
    content = [VERSION, training_set.set_hash, list(train_ids), list(test_ids), conditions]
    content += [recipe.model.model_dump(mode="json"), recipe.train.model_dump(mode="json")]
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
    place = ("quality", f"fold-{recipe.model.name}-{digest}.parquet")
    if lake.exists(*place):
        return pl.read_parquet(lake.read_bytes(*place))
    plan = plan_run(training_set, train_ids, recipe.model, recipe.train)
    learner = build_learner(training_set, train_ids, recipe.model, recipe.train, launch, total_steps=plan.num_rows)
    fit_to_clips(learner.model, training_set, train_ids, condition=conditions[0])
    epochs = itertools.count()
    loader = LocalLoader(training_set, recipe.train)
    fit(learner, plan, loader, lambda _: {"score": next(epochs)})  # the last epoch is best
    size = launch.eval_batch_size
    frames = [predict(learner.model, training_set, test_ids, f"audio/{one}", batch_size=size) for one in conditions]
    frame = pl.concat(frames)
    lake.write_parquet(frame.to_arrow(), *place)
    return frame


def enrolled_conditions(sections: Sections, corpus: str, clips: Sequence[int]) -> list[FittedCondition]:
    """Conditions in which so many clips enrol each speaker, drawn as annotate draws them; 0: speakers are unknown."""
    lake, annotate = Lake(sections.lake), sections.annotate
    rows = pl.DataFrame(lake.utterances(corpus)).to_dicts()
    stages = [Decode(annotate.audio, sections.lake.storage_options), MeasureProsody(annotate.prosody)]
    for start in range(0, len(rows), CLIPS_AT_ONCE):
        part = rows[start : start + CLIPS_AT_ONCE]
        annotate_rows(stages, part, annotate.guard)
        for row in part:
            row.pop(WAVEFORM, None)
    found = []
    for number in clips:
        norms = Norms.fit(rows, annotate.norms.model_copy(update={"enrol_clips": number or 1}))
        norms = norms if number else norms.without_speakers()
        lake.write_json(norms.to_json(), "norms", f"{norms.hash}.json")
        found.append(FittedCondition(Condition(number, "reference").name, {}, norms.hash))
    return found


def ids_of(training_set: TrainingSet, folds: Sequence[int]) -> list[str]:
    """Clips of some folds."""
    return training_set.frame.filter(pl.col("fold").is_in(list(folds)))["utterance_id"].to_list()


def knowing(runs: Sequence[pl.DataFrame], clips: int) -> list[pl.DataFrame]:
    """Predictions with so many enrolment clips of each speaker."""
    return [run.filter(pl.col("level") == f"audio/{Condition(clips, 'reference').name}") for run in runs]


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
    return f"{name:38s} {value.estimate:{sign}.3f}  95 % interval {low} to {high}{spread}"


def by_fold(runs: Sequence[pl.DataFrame], classes: Sequence[str]) -> list[float]:
    """UAR of each fold in order, mean over the runs."""
    metric = categorical("ua", classes)
    values = [[metric(part) for part in run.sort("fold").partition_by("fold", maintain_order=True)] for run in runs]
    return [sum(fold) / len(fold) for fold in zip(*values, strict=True)]
