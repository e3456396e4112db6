"""What every training starts from: the packed training set, and for each run its batch plan and its name.

A run's name is a hash of the data, the fold and the sections `model` and `train`, whole; nothing of `launch` is in it
(docs/decisions/0024). So `train` and each trial of a `protocol` find one another's work, however each is launched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import Any

import polars as pl

from emoray.corpora import CorpusConfig
from emoray.corpora.folds import Fold
from emoray.digest import digest
from emoray.errors import LakeError, TrainingError
from emoray.lake.tables import Lake
from emoray.models.build import MODELS, OVER_DIALOGUES, frontend
from emoray.models.config import ModelConfig
from emoray.scoring.bundle import text_read
from emoray.stages import pipeline
from emoray.stages.conditions import Condition, FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.norms import Norms
from emoray.training.build import decide_objective, plan_run
from emoray.training.checkpoint import plan_fingerprint
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.pack import column, training_set_hash
from emoray_jobs.annotate.state import State
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.config import ClusterConfig
from emoray_jobs.train.register import PreparedRun, TrainingInputs
from emoray_jobs.train.run_spec import RunSpec
from emoray_jobs.train.training_set import ensure_training_set, training_keys

log = logging.getLogger(__name__)


def load_inputs(
    lake: Lake,
    cluster: ClusterConfig,
    stack: contextlib.ExitStack,
    *,
    corpus: CorpusConfig,
    annotate: AnnotateConfig,
    model: ModelConfig,
    launch: LaunchConfig,
) -> TrainingInputs:
    """Pack a corpus for a model, unless that is done.

    Args:
        annotate: Options of the stages that it was annotated with, and its filters.

    Raises:
        LakeError: The corpus is not in the lake, or not annotated although the model reads text.
    """
    state, keys = _rows(lake, corpus.name, annotate, model)
    _assert_text(corpus.name, model, keys, state.conditions[0].name)
    if issubclass(MODELS[model.name], OVER_DIALOGUES) and keys["dialogue_id"].null_count() == keys.height:
        log.warning("%s reads dialogues, and corpus %r has none: each clip is one by itself", model.name, corpus.name)
    training_set = ensure_training_set(
        lake,
        cluster,
        launch,
        stack,
        corpus=corpus.name,
        conditions=state.conditions,
        model=model,
        audio=annotate.audio,
        keys=keys,
    )
    return TrainingInputs(corpus, annotate, training_set, state.conditions, state.norms)


def training_set_now(lake: Lake, corpus: CorpusConfig, annotate: AnnotateConfig, model: ModelConfig) -> str:
    """Hash of the training set that a model would read today; packs nothing.

    Raises:
        LakeError: The corpus is not in the lake, or not annotated although the model reads text.
    """
    state, keys = _rows(lake, corpus.name, annotate, model)
    return training_set_hash(keys, state.conditions, frontend(model.encoder), annotate.audio, model.text_width)


def _rows(lake: Lake, corpus: str, annotate: AnnotateConfig, model: ModelConfig) -> tuple[State, pl.DataFrame]:
    """The annotations that a model depends on, and the utterances that it may read."""
    lake.utterances(corpus, ["utterance_id"])
    state = _annotations(lake, corpus, annotate, model)
    return state, training_keys(lake, corpus, annotate, state.conditions)


def prepare_run(
    lake: Lake,
    data: TrainingInputs,
    model: ModelConfig,
    train: TrainConfig,
    launch: LaunchConfig,
    fold: Fold | None = None,
) -> PreparedRun:
    """Plan the batches of a run.

    Args:
        data: Of `load_inputs`; with the fold's splits already, if there is a fold.
        model: The model to train; `data` was loaded for it.
        fold: The fold whose train and dev parts the run sees; None: the corpus's own splits.

    Raises:
        TrainingError: Nothing to train on, to learn or to select by.
    """
    training_set = data.training_set
    needed = ("train", "dev") if fold is not None or train.optimizer.schedule == "plateau" else ("train",)
    for split in needed:
        if not training_set.ids(split):
            raise TrainingError(
                f"corpus {data.corpus.name!r} has no labelled utterances in split {split!r}"
                + ("" if fold is None else f" of fold {fold.fold}"),
                where=lake.root,
                remedy="Training needs a train split with labels (or model.classes that name its emotions); trials of"
                " a protocol and the plateau schedule need a dev split too",
                kind="empty_split",
            )
    if not training_set.ids("dev"):
        log.warning(
            "corpus %r has no labelled dev split: all %d epochs are trained, the last one counts, and scores have no"
            " intervals",
            data.corpus.name,
            train.epochs,
        )
    train = decide_objective(training_set, training_set.ids("train"), model, train)
    plan = plan_run(training_set, training_set.ids("train"), model, train)
    plan_hash = plan_fingerprint(plan)
    where = ("training_sets", training_set.set_hash, "plans", f"{plan_hash}.parquet")
    if not lake.exists(*where):
        lake.write_parquet(plan, *where)
    assignment = RunSpec(
        lake=lake.config,
        run=f"{model.name}-{_run_hash(model, train, training_set.set_hash, plan_hash, fold)}",
        model=model,
        train=train,
        launch=launch,
        training_set=training_set.set_hash,
        plan="/".join(where),
        fold=fold,
    )
    return PreparedRun(assignment, data, plan_hash)


def _annotations(lake: Lake, corpus: str, annotate: AnnotateConfig, model: ModelConfig) -> State:
    """The annotations that a model depends on.

    None, or those of the first condition alone, for a model that reads no text; those of each state of the speaker
    where it measures sound against the speaker.
    """
    try:
        state = annotation_state(lake, corpus, annotate)
    except LakeError as error:
        if error.kind != "not_annotated" or text_read(model):
            raise
        if model.encoder.speaker_norms:
            log.warning(
                "corpus %r is not annotated, so no clip enrols its speaker, and model.encoder.speaker_norms measures"
                " each against the corpus: emoray annotate draws enrolment clips",
                corpus,
            )
        none, prints = Norms.unfitted(), pipeline.fingerprints(annotate, None)
        condition = FittedCondition(pipeline.conditions(annotate)[0].name, prints, none.hash)
        return State(prints, none, (condition,))
    if text_read(model):
        return state
    words = Condition.named(state.conditions[0].name).transcript
    states = tuple(one for one in state.conditions if Condition.named(one.name).transcript == words)
    return dataclasses.replace(state, conditions=states if model.encoder.speaker_norms else states[:1])


def _assert_text(corpus: str, model: ModelConfig, keys: pl.DataFrame, condition: str) -> None:
    wanted = [column(name, condition) for name in text_read(model)]
    bare = keys.filter(~pl.any_horizontal(pl.col(name).fill_null(False) for name in wanted)).height if wanted else 0
    if wanted and bare == keys.height:
        raise LakeError(
            f"corpus {corpus!r} has no text vectors yet, and {model.name} reads {', '.join(text_read(model))}",
            remedy="Finish the annotation: emoray annotate. Or train on sound alone: --set model.name=acoustic",
            kind="not_annotated",
        )
    if bare:
        log.warning(
            "%d of %d utterances have no text vector; the model learns from their sound alone", bare, keys.height
        )


def _run_hash(model: ModelConfig, train: TrainConfig, set_hash: str, plan: str, fold: Fold | None) -> str:
    what: dict[str, Any] = {
        "training_set": set_hash,
        "plan": plan,
        "model": model.model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
    }
    if fold is not None:
        what["fold"] = {"test": fold.test, "dev": fold.dev}
        if fold.speaker_groups is not None:
            what["fold"]["speaker_groups"] = fold.speaker_groups
    return digest(what, 12)
