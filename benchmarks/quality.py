"""`make quality`: MSF-SER, the same without LES, GS, ES or all text, and the concat baseline, on planted speech.

Each (row, seed) is trained from scratch in a process of its own and leaves its test predictions in the lake, whole or
not at all; a second run trains only what is missing. The corpus is synthetic: this tests machinery and is no evidence
about people.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.compute as pc
import torch
from benchmarks.quality_annotate import annotate, stage_values
from benchmarks.quality_page import RECOGNISED, Result, write_page

from emoray.config import merge, read_preset, validate
from emoray.corpora import CorpusConfig, build, ceiling
from emoray.lake import Lake, LakeConfig
from emoray.models.batch import LEVELS
from emoray.models.build import frontend
from emoray.models.config import ModelConfig
from emoray.models.mean import TrainMean
from emoray.stages.config import AnnotateConfig
from emoray.training.batch_plan import make_plan
from emoray.training.begin import begin
from emoray.training.config import TrainConfig
from emoray.training.fit import DevEvaluation, fit
from emoray.training.loader import LocalLoader
from emoray.training.pack import pack
from emoray.training.predict import predict
from emoray.training.training_set import TrainingSet

#: Raised when the same configuration would give other predictions.
VERSION = 1

FULL = "MSF-SER"
#: What differs from the preset's model in each row; all are trained from scratch.
ROWS: dict[str, dict[str, Any]] = {
    FULL: {"name": "msf_ser"},
    "without LES": {"name": "msf_ser", "granularities": ["gs", "es"]},
    "without GS": {"name": "msf_ser", "granularities": ["les", "es"]},
    "without ES": {"name": "msf_ser", "granularities": ["les", "gs"]},
    "without all text (acoustic)": {"name": "acoustic"},
    "concat baseline": {"name": "concat"},
}


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
        levels: Semantic levels to score the test split at.
    """

    row: str
    seed: int
    lake: LakeConfig
    set_hash: str
    recognised_hash: str | None
    model: ModelConfig
    train: TrainConfig
    levels: tuple[str, ...]

    def place(self) -> tuple[str, ...]:
        """Where its test predictions lie in the lake."""
        sets = [self.set_hash, self.recognised_hash]
        content = [VERSION, sets, self.levels, self.model.model_dump(mode="json"), self.train.model_dump(mode="json")]
        digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()
        name = re.sub(r"[^a-z]+", "-", self.row.lower()).strip("-")
        return ("quality", f"{name}-seed{self.seed}-{digest}.parquet")


def train_and_predict(job: Job) -> tuple[str, int, float]:
    """Train a row's model and store its test predictions.

    Returns:
        Row, seed and seconds.
    """
    began = time.monotonic()
    torch.set_num_threads(1)
    lake = Lake(job.lake)
    training_set = TrainingSet.open(lake, job.set_hash, job.train.cache_dir)
    train, ids = job.train, training_set.ids("train")
    plan = make_plan(
        ids,
        training_set.durations_s(ids),
        train.plan,
        epochs=train.epochs,
        seed=train.seed,
        crop_s=train.augment.crop_s,
    )
    learner = begin(training_set, ids, job.model, train, total_steps=plan.num_rows)
    fit(learner, plan, LocalLoader(training_set, train), DevEvaluation(training_set, training_set.ids("dev")))
    test = training_set.ids("test")
    size = train.eval_batch_size
    frames = [predict(learner.model, training_set, test, level, batch_size=size) for level in job.levels]
    if job.recognised_hash is not None:
        recognised = TrainingSet.open(lake, job.recognised_hash, train.cache_dir)
        frame = predict(learner.model, recognised, test, batch_size=size)
        frames.append(frame.with_columns(pl.lit(RECOGNISED).alias("level")))
    lake.write_parquet(pl.concat(frames).to_arrow(), *job.place())
    return job.row, job.seed, time.monotonic() - began


def word_error_rate(lake: Lake, corpus: str, fingerprint: str) -> float:
    """Word error rate of the recogniser on the test split, without case and punctuation."""
    from torchmetrics.functional.text import word_error_rate as rate

    heard = stage_values(lake, "transcribe", fingerprint)
    rows = lake.utterances(corpus, ["utterance_id", "split", "transcript"]).to_pylist()
    test = [row for row in rows if row["split"] == "test"]
    said = [_plain(row["transcript"]) for row in test]
    # A clip in which nothing was recognised counts with all its words.
    recognised = [_plain(heard.get(row["utterance_id"], {}).get("text") or "") for row in test]
    return float(rate(recognised, said))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def main(arguments: list[str] | None = None) -> int:
    """Build, annotate, train what is missing, print the table and write the page."""
    options = _options(arguments)
    began = time.monotonic()
    corpus, annotation, model, train, lake_config = _configuration(options)
    lake = Lake(lake_config)
    report = _Reporter(began)
    build(corpus, lake, lambda done, total: report("corpus", done, total))

    prints, norms = annotate(lake_config, corpus.name, annotation, options.processes, report)
    # As in service: the words are recognised, the norms and the model are those fitted on given transcripts.
    heard = validate(AnnotateConfig, merge(annotation.model_dump(), {"transcribe": {"kind": "pocketsphinx"}}))
    heard_prints, _ = annotate(lake_config, corpus.name, heard, options.processes, report, split="test", norms=norms)
    packing: dict[str, Any] = {
        "frontend": frontend(model.encoder),
        "audio": annotation.audio,
        "text_width": model.text_width,
        "shard_rows": train.shard_rows,
        "storage_options": lake_config.storage_options,
        "progress": lambda done, total: report("pack", done, total),
    }
    set_hash = pack(lake, corpus.name, prints, **packing)
    test = lake.utterances(corpus.name, ["utterance_id", "split"]).filter(pc.field("split") == "test")
    recognised_hash = pack(lake, corpus.name, heard_prints, only=test["utterance_id"].to_pylist(), **packing)

    rows = {name: change for name, change in ROWS.items() if not options.rows or name in options.rows}
    jobs = [
        Job(
            row=row,
            seed=seed,
            lake=lake_config,
            set_hash=set_hash,
            recognised_hash=recognised_hash if row == FULL else None,
            model=validate(ModelConfig, merge(model.model_dump(), change)),
            train=train.model_copy(update={"seed": seed}),
            levels=tuple(LEVELS) if row == FULL else ("full",),
        )
        for seed in range(options.seeds)
        for row, change in rows.items()
    ]
    missing = [job for job in jobs if not lake.exists(*job.place())]
    with ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, future in enumerate(as_completed([pool.submit(train_and_predict, job) for job in missing]), 1):
            row, seed, seconds = future.result()
            report(f"trained {row}, seed {seed}, in {seconds:.0f} s", number, len(missing))

    results = [Result(row, [_predictions(lake, job) for job in jobs if job.row == row]) for row in rows]
    results.append(Result("predict the train mean", [_train_mean(lake, set_hash, model)]))
    settings = {"model": model.model_dump(mode="json"), "train": train.model_dump(mode="json"), "set": set_hash}
    page = write_page(
        Path(options.out),
        results,
        full=FULL,
        ceiling=ceiling(lake, corpus.name),
        wer=word_error_rate(lake, corpus.name, heard_prints["transcribe"]),
        seeds=options.seeds,
        seconds=time.monotonic() - began,
        settings=settings,
    )
    print(page)
    return 0


def _predictions(lake: Lake, job: Job) -> pl.DataFrame:
    return pl.read_parquet(lake.read_bytes(*job.place()))


def _train_mean(lake: Lake, set_hash: str, config: ModelConfig) -> pl.DataFrame:
    training_set, model = TrainingSet.open(lake, set_hash), TrainMean(config)
    ids = training_set.ids("train")
    model.fit(training_set.targets(ids), training_set.labels(ids))
    return predict(model, training_set, training_set.ids("test"), batch_size=256)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make quality ARGS=…", description=__doc__.splitlines()[0])
    parser.add_argument("--lake", help="root of the lake (default: the preset's)")
    parser.add_argument("--seeds", type=int, default=3, help="models per row (default: %(default)s)")
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), help="only these rows")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="side by side (default: %(default)s)"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="changes to the preset")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder of quality.md and .json")
    return parser.parse_args(arguments)


def _configuration(
    options: argparse.Namespace,
) -> tuple[CorpusConfig, AnnotateConfig, ModelConfig, TrainConfig, LakeConfig]:
    import yaml

    tree: Mapping[str, Any] = read_preset("laptop")
    for override in options.set:
        path, _, text = override.partition("=")
        change: Any = yaml.safe_load(text)
        for part in reversed(path.split(".")):
            change = {part: change}
        tree = merge(dict(tree), change)
    lake = tree["lake"] | ({"root": options.lake} if options.lake else {})
    train = {name: value for name, value in tree["train"].items() if name in TrainConfig.model_fields}
    return (
        validate(CorpusConfig, tree["corpus"]),
        validate(AnnotateConfig, tree["annotate"]),
        validate(ModelConfig, tree["model"]),
        validate(TrainConfig, train),
        validate(LakeConfig, lake),
    )


class _Reporter:
    """Prints progress lines, at most one every two seconds and one at each end."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or what.startswith("trained") or now - self._last > 2:
            self._last = now
            print(f"[{now - self._began:6.0f} s] {what}: {done} of {total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
