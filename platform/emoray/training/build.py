"""The start of a training: batch plan, new weights, and everything that is fitted to the train split's labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import nn

from emoray.errors import TrainingError
from emoray.models.build import MODELS, OVER_DIALOGUES, WITHOUT_GRADIENT, build
from emoray.models.config import ModelConfig
from emoray.models.speaker_norms import SpeakerNorms
from emoray.models.systems.mean import TrainMean
from emoray.models.systems.statistics_svm import StatisticsSvm
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.batch_plan import make_plan
from emoray.training.data.training_set import TrainingSet
from emoray.training.objectives import RegionTargets, class_weights
from emoray.training.seeds import seed_torch
from emoray.training.step import Learner

log = logging.getLogger(__name__)

#: Clips whose statistics are computed together.
CLIPS_AT_ONCE = 64


def decide_objective(
    training_set: TrainingSet, ids: Sequence[str], model: ModelConfig, config: TrainConfig
) -> TrainConfig:
    """The configuration with `objective.category` decided by the labels of `ids`.

    Raises:
        TrainingError: No term of the loss has both a weight and labels: nothing would be learned.
    """
    objective = config.objective
    dimensions = bool(training_set.targets(ids).isfinite().any())
    classes = bool(model.classes) and bool((training_set.labels(ids) >= 0).any())
    if objective.category is None:
        alone = classes and not dimensions
        # Without CCC a model is selected by the UAR of its classes.
        update = {"category": 1.0, "ccc": 0.0} if alone else {"category": 0.0}
        objective = objective.model_copy(update=update)
    regions = objective.region and model.name == "emosphere"
    learns = (dimensions and (objective.ccc or regions)) or (classes and objective.category)
    if not learns and model.name not in WITHOUT_GRADIENT:
        there = " and ".join(name for name, so in (("dimensions", dimensions), ("classes", classes)) if so) or "neither"
        raise TrainingError(
            f"nothing can be learned: labels are there for {there}, the objective weighs ccc={objective.ccc:g} and"
            f" category={objective.category:g}",
            where="train.objective",
            remedy="Name the corpus's emotions in model.classes, and give a term whose labels are there a weight",
            kind="empty_objective",
        )
    return config.model_copy(update={"objective": objective})


def plan_run(training_set: TrainingSet, ids: Sequence[str], model: ModelConfig, config: TrainConfig) -> pa.Table:
    """The batch plan of a run: whole dialogues for models that read them, no steps for a model without gradient.

    Raises:
        TrainingError: There is nothing to train on.
    """
    return make_plan(
        ids,
        training_set.durations_s(ids),
        config.plan,
        epochs=0 if model.name in WITHOUT_GRADIENT else config.epochs,
        seed=config.seed,
        crop_s=config.augment.crop_s,
        dialogues=training_set.dialogues(ids) if issubclass(MODELS[model.name], OVER_DIALOGUES) else None,
    )


def build_learner(
    training_set: TrainingSet,
    ids: Sequence[str],
    model: ModelConfig,
    config: TrainConfig,
    launch: LaunchConfig,
    *,
    total_steps: int,
    device: torch.device | str = "cpu",
) -> Learner:
    """A learner at step 0, of a training set that was opened with the model's classes.

    Speaker norms, class weights, region weights and the train mean come from `ids`; weights depend on the seed only.
    """
    seed_torch(config.seed, "weights")
    built, target_N3, label_N = build(model), training_set.targets(ids), training_set.labels(ids)
    fit_to_clips(built, training_set, ids)
    weighted = model.classes and config.objective.class_weights
    return Learner(
        built,
        config,
        launch,
        total_steps=total_steps,
        device=device,
        class_weight_C=class_weights(label_N, len(model.classes)) if weighted else None,
        regions=RegionTargets.fit(target_N3, model.emosphere.regions) if model.name == "emosphere" else None,
    )


def fit_to_clips(
    model: nn.Module, training_set: TrainingSet, ids: Sequence[str], *, condition: str | None = None
) -> int:
    """Fit the speaker norms of a model to clips, and to their labels a model without gradient.

    Support vector machines are fitted to at most `model.statistics_svm.max_clips` clips, evenly spread over `ids`.

    Args:
        condition: Under which support vector machines see the clips; the first one if left out.

    Returns:
        How many clips a model without gradient was fitted to; 0 for any other.
    """
    norms = getattr(model, "speaker_norms", None)
    if isinstance(norms, SpeakerNorms):
        norms.fit(training_set.measures(ids), training_set.speakers(ids))
    if isinstance(model, TrainMean):
        model.fit(training_set.targets(ids), training_set.labels(ids))
        return len(ids)
    if not isinstance(model, StatisticsSvm):
        return 0
    number = min(len(ids), model.max_clips)
    if number < len(ids):
        log.info("the support vector machines are fitted to %d of %d clips", number, len(ids))
    chosen = [ids[place * len(ids) // number] for place in range(number)]
    batches = [chosen[start : start + CLIPS_AT_ONCE] for start in range(0, number, CLIPS_AT_ONCE)]
    collated = (training_set.collate(names, condition=condition) for names in batches)
    statistics_NS = torch.cat([model.statistics(batch if norms is None else norms(batch)) for batch in collated])
    model.fit(statistics_NS, training_set.targets(chosen), training_set.labels(chosen))
    return number
