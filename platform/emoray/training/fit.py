"""The training loop, the same in a test, in a benchmark and on each worker of a Ray job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import pyarrow as pa
import torch
import torch.distributed as dist

from emoray.errors import StoppedError, TrainingError
from emoray.models.build import OVER_DIALOGUES
from emoray.training.checkpoint import Checkpoint, load_trained_weights, plan_fingerprint, trained_weights
from emoray.training.data.loader import Loader
from emoray.training.data.training_set import TrainingSet
from emoray.training.predict import gather_predictions, inseparable_groups, predict, summarise
from emoray.training.sharding import full_state, load_full_state
from emoray.training.step import Learner

Metrics = dict[str, float]


def _ignore(*_arguments: object) -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called during a run, on every worker.

    Attributes:
        on_step: (step, metrics) after each step.
        on_epoch: (epoch, dev metrics) after each epoch.
        on_checkpoint: (checkpoint) after each epoch, every `checkpoint_steps` steps and before a stop; stores it. Its
            `pending` metrics may be logged as soon as it is stored.
        should_stop: Called after each step, and after the evaluation at the end of an epoch; if it is true on any
            worker, all of them checkpoint and stop.
    """

    on_step: Callable[[int, Metrics], None] = _ignore
    on_epoch: Callable[[int, Metrics], None] = _ignore
    on_checkpoint: Callable[[Checkpoint], None] = _ignore
    should_stop: Callable[[], bool] = _never


@dataclass(frozen=True)
class FitResult:
    """The result of a run; the model has the weights of the epoch with the best dev score.

    `steps` counts those of the whole run, before a resume too; `history` has the dev metrics of every epoch.
    """

    best_epoch: int
    best_score: float
    steps: int
    history: list[Metrics]


@dataclass
class _Progress:
    step: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_epoch: int = -1
    best_score: float = float("-inf")
    stale_epochs: int = 0
    history: list[Metrics] = field(default_factory=list)
    pending: list[Metrics] = field(default_factory=list)


def last_epoch(_learner: Learner) -> Metrics:
    """In place of `DevEvaluation` without a dev split: nothing is measured, all epochs are run, the last one counts."""
    return {}


class DevEvaluation:
    """Scores the dev split: the clips (or dialogues) are divided among the workers, and each gets the metrics of all.

    Only the first part of its clips counts (`TrainingSet.divide_dev`): the other calibrates the intervals. Each metric
    is its mean over the conditions of the training set, with all text vectors. UAR selects if the objective has no CCC
    (`train.objective.ccc` 0): V, A and D are then not trained.

    Raises:
        TrainingError: There are no dev clips to select a model by.
    """

    def __init__(self, training_set: TrainingSet, ids: list[str]) -> None:
        if not ids:
            what = "no labelled dev utterances to select a model by"
            raise TrainingError(what, remedy="Give the corpus a dev split", kind="empty_split")
        self._training_set, self._ids = training_set, ids

    def __call__(self, learner: Learner) -> Metrics:
        """Metrics of the learner's model; `score` selects."""
        over_dialogues = isinstance(learner.model, OVER_DIALOGUES)
        selecting, _ = self._training_set.divide_dev(self._ids, dialogues=over_dialogues)
        units = inseparable_groups(learner.model, self._training_set, selecting)
        mine = [selecting[place] for unit in units[learner.rank :: learner.world] for place in unit]
        every = [self._under(learner, mine, condition) for condition in self._training_set.conditions]
        # Under a condition too few clips may be left to say anything: most of them may enrol their speakers.
        found = [one for one in every if "score" in one]
        if not found:
            what = "too few labelled dev utterances to select a model by"
            raise TrainingError(what, remedy="Give the dev split more clips", kind="empty_split")
        common = set.intersection(*map(set, found))
        return {name: sum(one[name] for one in found) / len(found) for name in found[0] if name in common}

    def _under(self, learner: Learner, mine: list[str], condition: str) -> Metrics:
        frame = predict(
            learner.model,
            self._training_set,
            mine,
            f"full/{condition}",
            batch_size=learner.launch.eval_batch_size,
            device=learner.device,
        )
        # Without a loss the dimensional head is not trained: its CCC is noise and must not select.
        untrained = learner.config.objective.ccc == 0
        gathered = gather_predictions(frame).sort("utterance_id")
        return summarise(gathered, self._training_set.classes, by_classes=untrained)


def fit(
    learner: Learner,
    plan: pa.Table,
    loader: Loader,
    evaluate: Callable[[Learner], Metrics],
    *,
    callbacks: Callbacks | None = None,
    resume: Checkpoint | None = None,
) -> FitResult:
    """Train by a batch plan; keep the weights of the epoch with the best dev score, or without one of the last.

    A plan without steps is for a model without gradient: the run is one evaluation.

    Args:
        loader: Returns this worker's batches.
        evaluate: Dev metrics after each epoch, with `score` (`DevEvaluation`), or none (`last_epoch`).
        resume: Continue from here: same batches and numbers as without the stop, with any number of workers.

    Raises:
        StoppedError: `callbacks.should_stop` was true on some worker; all raise it after their checkpoint is stored.
        TrainingError: A loss is not finite, the checkpoint is of another plan or model, or the plan splits the
            dialogues of a model that reads them.
    """
    if isinstance(learner.model, OVER_DIALOGUES) and "dialogue_clips" not in plan.column_names:
        raise TrainingError(
            "the plan is of single clips, but the model reads whole dialogues",
            remedy="Make it with emoray.training.build.plan_run",
            kind="mismatched_plan",
        )
    callbacks = callbacks or Callbacks()
    fingerprint = plan_fingerprint(plan)
    epochs = plan["epoch"].to_pylist()
    state = _Progress() if resume is None else _restore(learner, resume, fingerprint)
    learner.note_scores(_scores(state))
    stopped = _patience_over(state, learner.config.patience) and _at_epoch_end(epochs, state.step)
    if not epochs and state.best is None:
        _end_epoch(learner, 0, evaluate(learner), state, callbacks)
        callbacks.on_checkpoint(_checkpoint(learner, state, fingerprint))
    elif not stopped:
        for batch in loader(plan, state.step):
            metrics = learner.step(batch)
            state.step = batch.step + 1
            state.pending.append({"step": batch.step, **metrics})
            callbacks.on_step(batch.step, metrics)
            at_end = _at_epoch_end(epochs, state.step)
            if at_end:
                stopped = _end_epoch(learner, batch.epoch, evaluate(learner), state, callbacks)
            stop = _any_should_stop(learner, callbacks.should_stop())
            if at_end or stop or state.step % learner.launch.checkpoint_steps == 0:
                callbacks.on_checkpoint(_checkpoint(learner, state, fingerprint))
                state.pending = []
            if stop:
                raise StoppedError(f"stopped after {state.step} of {len(epochs)} steps", remedy="Resume from there")
            if stopped:
                break
    assert state.best is not None, "a run has at least one evaluation"
    load_trained_weights(learner.model, state.best)
    return FitResult(state.best_epoch, state.best_score, state.step, state.history)


def _any_should_stop(learner: Learner, here: bool) -> bool:
    """Whether any worker should stop. All get the same answer after the same step, so that none waits for another."""
    if learner.world == 1:
        return here
    stop = torch.tensor(int(here), device=learner.device)
    dist.all_reduce(stop, dist.ReduceOp.MAX)
    return bool(stop)


def _end_epoch(learner: Learner, epoch: int, metrics: Metrics, state: _Progress, callbacks: Callbacks) -> bool:
    """Record the epoch; whether to stop early."""
    state.history.append(metrics)
    score = _scores(state)[-1]
    learner.note_scores(_scores(state))
    told = {f"dev_{name}": value for name, value in metrics.items()} or {"epoch": float(epoch)}
    state.pending.append({"step": max(0, state.step - 1), **told})
    if score > state.best_score:
        state.best, state.best_epoch, state.best_score = trained_weights(learner.model), epoch, score
        state.stale_epochs = 0
    else:
        state.stale_epochs += 1
    callbacks.on_epoch(epoch, metrics)
    return _patience_over(state, learner.config.patience)


def _scores(state: _Progress) -> list[float]:
    """Dev score of each epoch; its number where nothing was measured."""
    return [metrics.get("score", float(epoch)) for epoch, metrics in enumerate(state.history)]


def _patience_over(state: _Progress, patience: int | None) -> bool:
    return patience is not None and state.stale_epochs >= patience


def _at_epoch_end(epochs: list[int], step: int) -> bool:
    """Whether the step before `step` is the last of its epoch."""
    return step > 0 and (step >= len(epochs) or epochs[step] != epochs[step - 1])


def _checkpoint(learner: Learner, state: _Progress, fingerprint: str) -> Checkpoint:
    progress = {**vars(state), "history": list(state.history), "pending": list(state.pending)}
    weights, optimizer = trained_weights(learner.model), full_state(learner.optimizer)
    return Checkpoint(**progress, weights=weights, optimizer=optimizer, plan=fingerprint)


def _restore(learner: Learner, checkpoint: Checkpoint, fingerprint: str) -> _Progress:
    if checkpoint.plan != fingerprint:
        raise TrainingError(
            "the checkpoint was made with another batch plan",
            where=f"step {checkpoint.step}",
            remedy="Resume with the data, seed and train.plan that the run started with, or start a new run",
            kind="mismatched_checkpoint",
        )
    load_trained_weights(learner.model, checkpoint.weights)
    load_full_state(learner.optimizer, checkpoint.optimizer)
    progress = {one.name: getattr(checkpoint, one.name) for one in fields(_Progress)}
    return _Progress(**{**progress, "history": list(checkpoint.history), "pending": []})
