"""Rows of a table of models: each (row, seed) is trained from scratch in its own process.

It stores its test predictions in the lake, whole or not at all, under a name that contains all that they depend on: a
second run trains only what is missing, and two tables with the same model share it.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import ConfigDict

from emoray.config import Section, load, merge, validate
from emoray.corpora import CorpusConfig
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.build import WITHOUT_GRADIENT, frontend
from emoray.models.config import ModelConfig
from emoray.stages.conditions import FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.pipeline import conditions
from emoray.training.build import build_learner, plan_run
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.loader import LocalLoader
from emoray.training.data.pack import pack
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import DevEvaluation, fit
from emoray.training.predict import predict

RESULTS = Path(__file__).parents[1] / "results"

#: Raised when the same configuration would give other predictions.
VERSION = 4
#: Level in a predictions frame of clips whose transcripts were recognised, not given.
RECOGNISED = "recognised"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: Its name.
        model: Changes to the preset's model.
        train: Changes to the preset's training.
        under: Name of the row that it is compared with: the same model with one part more, or another part.
        classes: Trained on classes alone, and evaluated by UA and WA.
        dialogues: On the corpus of dialogues, in which labels carry over from turn to turn.
        levels: Semantic levels to score the test split at.
        recognised: Whether the test split with recognised transcripts is scored too.
    """

    name: str
    model: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)
    under: str | None = None
    classes: bool = False
    dialogues: bool = False
    levels: tuple[str, ...] = ("full",)
    recognised: bool = False


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        row: Its row in the table.
        seed: Of weights, plan, augmentation and dropout.
        lake: Lake of the training set.
        set_hash: The training set.
        recognised_hash: The test split with recognised transcripts, to score too; None for no such score.
        model: Its configuration.
        train: Training, with the seed.
        launch: Evaluation's batch size, and the cache of shards.
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
        """Path of its test predictions in the lake."""
        sets = [self.set_hash, self.recognised_hash]
        content = [VERSION, sets, self.levels, self.model.model_dump(mode="json"), self.train.model_dump(mode="json")]
        digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()
        return ("quality", f"{self.model.name}-seed{self.seed}-{digest}.parquet")

    def predictions(self) -> pl.DataFrame:
        """Its test predictions, all levels in one frame; `core_s` is the time of its training on a core."""
        return pl.read_parquet(Lake(self.lake).read_bytes(*self.place()))


class Sections(Section):
    """The sections of the preset that a table uses.

    Attributes:
        corpus: The corpus.
        annotate: Its annotation.
        model: The model that rows change.
        train: The training that rows change.
        launch: Evaluation's batch size, and shards.
        lake: Lake of all tables.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

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


class Reporter:
    """Prints progress lines, at most one every two seconds and one at each end.

    Attributes:
        began: Its start, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Print how many of all are done."""
        now = time.monotonic()
        if done == total or what.startswith("trained") or now - self._last > 2:
            self._last = now
            print(f"[{now - self.began:6.0f} s] {what}: {done} of {total}", file=sys.stderr, flush=True)


def options_of(module: str, description: str | None, rows: Iterable[str], page: str) -> argparse.ArgumentParser:
    """The options of a table's command."""
    names = list(rows)
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=(description or "").splitlines()[0])
    made.add_argument("--lake", help="root of the lake (default: the preset's)")
    made.add_argument("--seeds", type=int, default=3, help="models per row (default: %(default)s)")
    made.add_argument("--rows", nargs="*", choices=names, metavar="ROW", help=f"only these of {', '.join(names)}")
    made.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at a time (default: %(default)s)")
    made.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="changes to the preset")
    made.add_argument("--out", default=str(RESULTS), help=f"folder of {page}.md and .json")
    return made


def configuration(options: argparse.Namespace, *changes: str) -> Sections:
    """The laptop preset with a benchmark's own changes, and then the options'."""
    overrides = [*changes, *options.set, *([f"lake.root={options.lake}"] if options.lake else [])]
    return load(Sections, overrides=overrides, environ={})


def pack_corpus(
    sections: Sections,
    corpus: str,
    fingerprints: Mapping[str, str],
    report: Callable[[str, int, int], None],
    model: ModelConfig | None = None,
    only: Sequence[str] | None = None,
    under: Sequence[FittedCondition] | None = None,
) -> str:
    """Pack a corpus for a model (by default the preset's) if that is not done.

    Args:
        sections: Lake, audio, model and shards.
        corpus: Name of the corpus.
        fingerprints: Of the stages whose text vectors go in.
        report: Called with (what, done, total).
        model: Model whose front-end and text width count.
        only: Utterances to pack; None for all that are labelled.
        under: Conditions to pack it under, which have fingerprints of their own; the preset's first one if left out.

    Returns:
        Hash of the training set.
    """
    model = model or sections.model
    return pack(
        Lake(sections.lake),
        corpus,
        under or [FittedCondition(conditions(sections.annotate)[0].name, dict(fingerprints), norms="")],
        frontend=frontend(model.encoder),
        audio=sections.annotate.audio,
        text_width=model.text_width,
        shard_rows=sections.launch.shard_rows,
        only=only,
        storage_options=sections.lake.storage_options,
        progress=lambda done, total: report("pack", done, total),
    )


def jobs_of(
    rows: Iterable[Row],
    seeds: int,
    sections: Sections,
    set_hash: Callable[[Row], str],
    recognised_hash: str | None = None,
) -> list[Job]:
    """All jobs, seed by seed, so that a run cut short has whole tables of fewer seeds; models without a seed, once.

    Args:
        rows: The rows.
        seeds: Number of seeds.
        sections: What the rows' changes apply to.
        set_hash: The training set of a row.
        recognised_hash: The test split with recognised transcripts.
    """
    every = list(rows)
    jobs = []
    for seed in range(seeds):
        for row in every:
            if seed and row.model["name"] in WITHOUT_GRADIENT:
                continue
            model, train = sections.changed(row.model, {**row.train, "seed": seed})
            extra = recognised_hash if row.recognised else None
            hashes = (set_hash(row), extra)
            jobs.append(Job(row.name, seed, sections.lake, *hashes, model, train, sections.launch, row.levels))
    return jobs


def train_missing(jobs: Sequence[Job], processes: int, report: Callable[[str, int, int], None]) -> None:
    """Train what is missing, some at a time; a kill loses only the trainings in progress."""
    missing = list({job.place(): job for job in jobs if not Lake(job.lake).exists(*job.place())}.values())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent) as pool:
        for number, future in enumerate(as_completed([pool.submit(train_and_predict, job) for job in missing]), 1):
            row, seed, seconds = future.result()
            report(f"trained {row}, seed {seed}, in {seconds:.0f} s", number, len(missing))


def _end_with_parent() -> None:
    """End a pool's process with its parent: it would wait for work from a killed parent."""
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
