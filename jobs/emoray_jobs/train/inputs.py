"""What every training starts from: the packed training set, and for each run its batch plan and its name.

A run's name is a hash of the data, the fold and the sections `model` and `train`, whole; nothing of `launch` is in it
(docs/decisions/0024). So `train` and each trial of a `protocol` find one another's work, however each is launched.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from emoray.corpora.folds import Fold
from emoray.digest import digest
from emoray.errors import LakeError, TrainingError
from emoray.lake.tables import Lake
from emoray.models.build import MODELS, OVER_DIALOGUES
from emoray.scoring.bundle import text_read
from emoray.stages import pipeline
from emoray.stages.norms import Norms
from emoray.training.build import plan_run
from emoray.training.checkpoint import plan_fingerprint
from emoray.training.training_set import TrainingSet
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.train.register import PreparedRun
from emoray_jobs.train.run_spec import RunSpec
from emoray_jobs.train.training_set import ensure_training_set, training_keys

if TYPE_CHECKING:
    from emoray_jobs.config import Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingInputs:
    """What the configured model can be trained on.

    Attributes:
        training_set: The packed corpus, with its own splits.
        fingerprints: Of the stages that it is made from.
        norms: The norms that they measured against.
    """

    training_set: TrainingSet
    fingerprints: dict[str, str]
    norms: Norms


def load_inputs(config: Config, lake: Lake, stack: contextlib.ExitStack) -> TrainingInputs:
    """Pack the configured corpus for the configured model, as far as that is not done.

    Args:
        config: The jobs' configuration.
        lake: Where everything is.
        stack: Keeps Ray, where it has to be started, beyond this call.

    Raises:
        LakeError: The corpus is not in the lake, or not annotated although the model reads text.
    """
    lake.utterances(config.corpus.name, ["utterance_id"])
    fingerprints, norms = _annotations(config, lake)
    keys = training_keys(config, lake, fingerprints)
    _assert_text(config, keys)
    if issubclass(MODELS[config.model.name], OVER_DIALOGUES) and keys["dialogue_id"].null_count() == keys.height:
        name = config.corpus.name
        log.warning("%s reads dialogues, and corpus %r has none: each clip is one by itself", config.model.name, name)
    audio = config.annotate.audio
    training_set = ensure_training_set(
        config, lake, stack, fingerprints=fingerprints, model=config.model, audio=audio, keys=keys
    )
    return TrainingInputs(training_set, fingerprints, norms)


def prepare_run(config: Config, lake: Lake, data: TrainingInputs, fold: Fold | None = None) -> PreparedRun:
    """Plan the batches of a run.

    Args:
        config: The jobs' configuration.
        lake: Where everything is.
        data: Of `load_inputs`; with the fold's splits already, if there is a fold.
        fold: The fold whose train and dev parts the run sees; None: the corpus's own splits.

    Raises:
        TrainingError: Nothing to train on or to select by.
    """
    train, training_set = config.train, data.training_set
    for split in ("train", "dev"):
        if not training_set.ids(split):
            raise TrainingError(
                f"corpus {config.corpus.name!r} has no labelled utterances in split {split!r}"
                + ("" if fold is None else f" of fold {fold.fold}"),
                where=lake.root,
                remedy="Training needs a train and a dev split with labels (or model.classes that name its emotions)",
                kind="empty_split",
            )
    plan = plan_run(training_set, training_set.ids("train"), config.model, train)
    plan_hash = plan_fingerprint(plan)
    where = ("training_sets", training_set.set_hash, "plans", f"{plan_hash}.parquet")
    if not lake.exists(*where):
        lake.write_parquet(plan, *where)
    assignment = RunSpec(
        lake=lake.config,
        run=f"{config.model.name}-{_run_hash(config, training_set.set_hash, plan_hash, fold)}",
        model=config.model,
        train=train,
        launch=config.launch,
        training_set=training_set.set_hash,
        plan="/".join(where),
        fold=fold,
    )
    return PreparedRun(assignment, training_set, plan_hash, data.fingerprints, data.norms)


def _annotations(config: Config, lake: Lake) -> tuple[dict[str, str], Norms]:
    """Fingerprints and norms of the annotations. A model that reads no text does without where there are none."""
    try:
        state = annotation_state(config, lake)
    except LakeError as error:
        if error.kind != "not_annotated" or text_read(config.model):
            raise
        return pipeline.fingerprints(config.annotate, None), Norms.unfitted()
    return state.fingerprints, state.norms


def _assert_text(config: Config, keys: pl.DataFrame) -> None:
    wanted = text_read(config.model)
    bare = keys.filter(~pl.any_horizontal(pl.col(name).fill_null(False) for name in wanted)).height if wanted else 0
    if wanted and bare == keys.height:
        raise LakeError(
            f"corpus {config.corpus.name!r} has no text vectors yet, and {config.model.name} reads {', '.join(wanted)}",
            remedy="Finish the annotation: emoray annotate. Or train on sound alone: --set model.name=acoustic",
            kind="not_annotated",
        )
    if bare:
        log.warning(
            "%d of %d utterances have no text vector; the model learns from their sound alone", bare, keys.height
        )


def _run_hash(config: Config, set_hash: str, plan: str, fold: Fold | None) -> str:
    what = {
        "training_set": set_hash,
        "plan": plan,
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
    }
    if fold is not None:
        what["fold"] = {"test": fold.test, "dev": fold.dev}
    return digest(what, 12)
