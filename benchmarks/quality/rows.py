"""Rows of a table of models: each (row, seed) is trained from scratch in a process of its own.

It leaves its test predictions in the lake, whole or not at all, under a name that holds all that they depend on: a
second run trains only what is missing, and two tables that ask for the same model share it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
import yaml

from emoray.config import merge, read_preset, validate
from emoray.corpora import CorpusConfig
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.config import ModelConfig
from emoray.stages.config import AnnotateConfig
from emoray.training.build import build_learner, plan_run
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.fit import DevEvaluation, fit
from emoray.training.loader import LocalLoader
from emoray.training.predict import predict
from emoray.training.training_set import TrainingSet

#: Raised when the same configuration would give other predictions.
VERSION = 2
#: Level in a predictions frame of clips whose transcripts were recognised, not given.
RECOGNISED = "recognised"


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        row: Its row in the table.
        seed: Of weights, plan, augmentation and dropout.
        lake: Where the training set is.
        set_hash: The training set.
        recognised_hash: The test split with recognised transcripts, to score besides; None for no such score.
        model: Its configuration.
        train: Training, with the seed.
        launch: Evaluation's batch size, and where shards are cached.
        levels: Semantic levels to score the test split at.
    """

    row: str
    seed: int
    lake: LakeConfig
    set_hash: str
    recognised_hash: str | None
    model: ModelConfig
    train: TrainConfig
    launch: LaunchConfig
    levels: tuple[str, ...] = ("full",)

    def place(self) -> tuple[str, ...]:
        """Where its test predictions lie in the lake."""
        sets = [self.set_hash, self.recognised_hash]
        content = [VERSION, sets, self.levels, self.model.model_dump(mode="json"), self.train.model_dump(mode="json")]
        digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()
        return ("quality", f"{self.model.name}-seed{self.seed}-{digest}.parquet")

    def predictions(self) -> pl.DataFrame:
        """Its test predictions, all levels in one frame; `core_s` is what its training took."""
        return pl.read_parquet(Lake(self.lake).read_bytes(*self.place()))


class Reporter:
    """Prints progress lines, at most one every two seconds and one at each end.

    Attributes:
        began: When it did, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that so many of all are done."""
        now = time.monotonic()
        if done == total or what.startswith("trained") or now - self._last > 2:
            self._last = now
            print(f"[{now - self.began:6.0f} s] {what}: {done} of {total}", file=sys.stderr, flush=True)


def train_missing(jobs: Sequence[Job], processes: int, report: Callable[[str, int, int], None]) -> None:
    """Train what is not there yet, so many at a time; a kill loses no more than what is under way."""
    missing = list({job.place(): job for job in jobs if not Lake(job.lake).exists(*job.place())}.values())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent) as pool:
        for number, future in enumerate(as_completed([pool.submit(train_and_predict, job) for job in missing]), 1):
            row, seed, seconds = future.result()
            report(f"trained {row}, seed {seed}, in {seconds:.0f} s", number, len(missing))


def _end_with_parent() -> None:
    """A pool's process waits for ever for work from a parent that was killed, unless it looks."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def train_and_predict(job: Job) -> tuple[str, int, float]:
    """Train a row's model and store its test predictions.

    Returns:
        Row, seed and seconds.
    """
    began, busy_s = time.monotonic(), time.process_time()
    torch.set_num_threads(1)
    lake, train, launch = Lake(job.lake), job.train, job.launch
    training_set = TrainingSet.open(lake, job.set_hash, launch.cache_dir, job.model.classes)
    ids, test = training_set.ids("train"), training_set.ids("test")
    plan = plan_run(training_set, ids, job.model, train)
    learner = build_learner(training_set, ids, job.model, train, launch, total_steps=plan.num_rows)
    fit(learner, plan, LocalLoader(training_set, train), DevEvaluation(training_set, training_set.ids("dev")))
    frames = [
        predict(learner.model, training_set, test, level, batch_size=launch.eval_batch_size) for level in job.levels
    ]
    if job.recognised_hash is not None:
        recognised = TrainingSet.open(lake, job.recognised_hash, launch.cache_dir, job.model.classes)
        frame = predict(learner.model, recognised, test, batch_size=launch.eval_batch_size)
        frames.append(frame.with_columns(pl.lit(RECOGNISED).alias("level")))
    frame = pl.concat(frames).with_columns(core_s=pl.lit(time.process_time() - busy_s))
    lake.write_parquet(frame.to_arrow(), *job.place())
    return job.row, job.seed, time.monotonic() - began


@dataclass(frozen=True)
class Sections:
    """The preset's sections that a table is made by."""

    corpus: CorpusConfig
    annotate: AnnotateConfig
    model: ModelConfig
    train: TrainConfig
    launch: LaunchConfig
    lake: LakeConfig

    def changed(self, model: Mapping[str, Any], train: Mapping[str, Any]) -> tuple[ModelConfig, TrainConfig]:
        """Model and training with changes."""
        return (
            validate(ModelConfig, merge(self.model.model_dump(), dict(model))),
            validate(TrainConfig, merge(self.train.model_dump(), dict(train))),
        )


def parser(prog: str, description: str, rows: Sequence[str], page: str, folder: str) -> argparse.ArgumentParser:
    """The options that every table has."""
    made = argparse.ArgumentParser(prog=prog, description=description)
    made.add_argument("--lake", help="root of the lake (default: the preset's)")
    made.add_argument("--seeds", type=int, default=3, help="models per row (default: %(default)s)")
    made.add_argument("--rows", nargs="*", choices=rows, metavar="ROW", help=f"only these of {', '.join(rows)}")
    made.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="side by side (default: %(default)s)")
    made.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="changes to the preset")
    made.add_argument("--out", default=folder, help=f"folder of {page}.md and .json")
    return made


def configuration(options: argparse.Namespace) -> Sections:
    """The laptop preset with the options' changes."""
    tree: Mapping[str, Any] = read_preset("laptop")
    for override in options.set:
        path, _, text = override.partition("=")
        change: Any = yaml.safe_load(text)
        for part in reversed(path.split(".")):
            change = {part: change}
        tree = merge(dict(tree), change)
    lake = tree["lake"] | ({"root": options.lake} if options.lake else {})
    return Sections(
        validate(CorpusConfig, tree["corpus"]),
        validate(AnnotateConfig, tree["annotate"]),
        validate(ModelConfig, tree["model"]),
        validate(TrainConfig, tree["train"]),
        validate(LaunchConfig, tree["launch"]),
        validate(LakeConfig, lake),
    )
