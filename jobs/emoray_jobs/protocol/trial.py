"""A trial of a protocol: one training, by one seed on one fold, and what its best epoch predicts on the test clips.

Its predictions are stored beside its checkpoints and mark it as finished: a killed trial resumes from its checkpoint, a
finished one is read. Nothing is registered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from emoray.errors import EmorayError
from emoray.lake.tables import Lake
from emoray.models.build import build
from emoray.training.checkpoint import Checkpoint, load_trained_weights, prune
from emoray_jobs.train.local import predict_levels
from emoray_jobs.train.run_spec import RunSpec
from emoray_jobs.train.worker import open_training_set, train_here

log = logging.getLogger(__name__)

#: In a run's folder.
PREDICTIONS, OUTCOME = "test.parquet", "test.json"


@dataclass(frozen=True)
class Trial:
    """The task of a trial: a training, and the test splits and semantic levels to predict."""

    assignment: RunSpec
    tests: tuple[str, ...]
    levels: tuple[str, ...]

    @property
    def run(self) -> str:
        """Name of the run; its folder is `checkpoints/<run>/`."""
        return self.assignment.run

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.assignment.train.seed

    @property
    def fold(self) -> int | None:
        """Number of its fold; None with the corpus's own partitions."""
        return None if self.assignment.fold is None else self.assignment.fold.fold

    @property
    def name(self) -> str:
        """Its name in tables and messages."""
        return f"seed {self.seed}" if self.fold is None else f"seed {self.seed}, fold {self.fold}"


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a finished trial.

    Attributes:
        best_epoch: Epoch whose weights made the predictions, from 0; selected on dev.
        dev: Dev metrics of that epoch.
        seconds: Duration of the call that finished it.
    """

    steps: int
    best_epoch: int
    dev: dict[str, float]
    seconds: float


def run_trial(trial: Trial, on_checkpoint: Callable[[Checkpoint], None]) -> None:
    """Train in this process if that is not done, predict the test clips and store the outcome.

    Raises:
        TrainingError: The training cannot continue, or its checkpoint is broken.
    """
    started = time.monotonic()
    assignment = trial.assignment
    lake = Lake(assignment.lake)
    train_here(assignment, on_checkpoint)
    checkpoint = Checkpoint.latest(lake, trial.run)
    assert checkpoint is not None, "training ends with a checkpoint"
    assert checkpoint.best is not None, "a finished run has a best epoch"
    model = build(assignment.model)
    load_trained_weights(model, checkpoint.best)
    training_set = open_training_set(assignment)
    ids = [name for split in trial.tests for name in training_set.ids(split)]
    predicted = pl.concat(predict_levels(model, training_set, ids, trial.levels, assignment.launch).values())
    lake.write_parquet(predicted.to_arrow(), "checkpoints", trial.run, PREDICTIONS)
    outcome = {
        "steps": checkpoint.step,
        "best_epoch": checkpoint.best_epoch,
        "dev": checkpoint.history[checkpoint.best_epoch],
        "seconds": time.monotonic() - started,
    }
    lake.write_json(outcome, "checkpoints", trial.run, OUTCOME)
    prune(lake, trial.run, 1)  # earlier ones are not needed any more, and a protocol has many trials


def run_trial_safely(trial: Trial, on_step: Callable[[int], None]) -> str | None:
    """Run a trial whose failure must not stop others; returns its error on one line, None if it is finished.

    `on_step` is called with the step of each checkpoint once it is stored.
    """
    try:
        run_trial(trial, lambda checkpoint: on_step(checkpoint.step))
    except Exception as error:
        log.info("%s failed", trial.name, exc_info=True)
        what = str(error) if isinstance(error, EmorayError) else f"{type(error).__name__}: {error}"
        return " ".join(what.split())
    return None


def finished(lake: Lake, trial: Trial) -> TrialOutcome | None:
    """The outcome of a trial, if it is finished."""
    where = ("checkpoints", trial.run, OUTCOME)
    return TrialOutcome(**lake.read_json(*where)) if lake.exists(*where) else None


def test_predictions(lake: Lake, trial: Trial) -> pl.DataFrame:
    """The predictions of a finished trial, with its seed; `fold` is null with the corpus's own partitions."""
    frame = pl.read_parquet(lake.read_bytes("checkpoints", trial.run, PREDICTIONS))
    return frame.with_columns(seed=pl.lit(trial.seed, pl.Int64), fold=pl.lit(trial.fold, pl.Int32))


class Watcher(Protocol):
    """Follows trials, by their position among those that were started; called in the driver."""

    def start(self, number: int) -> None:
        """A trial begins or resumes."""

    def on_step(self, number: int, step: int) -> None:
        """A trial stored the checkpoint before a step."""

    def end(self, number: int, error: str | None) -> None:
        """A trial is finished, or failed with this error."""
