"""Real voices: EMO-DB, four classes, leave one speaker out, every model that needs no text, trained from scratch.

    python -m benchmarks.quality.emodb [--path FOLDER] [--models acoustic cnn14 emosphere mean] [--seeds 2]

Each fold leaves one speaker out for testing and trains on the others for a fixed number of epochs; the last weights are
used, because there is no speaker left to select by. UAR over the pooled predictions, interval over
speakers. For comparison, a support vector machine on statistics of the log-mels of the same clips, the usual method
for so small a corpus. A fold of the six takes 28 s of a core with `acoustic`, 34 with `emosphere`
and 184 with `cnn14`: 49 min for all with two seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from benchmarks.quality.rows import RESULTS, Sections, configuration, pack_corpus
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emoray.config import merge
from emoray.corpora import build
from emoray.corpora.emodb import FOUR_CLASSES
from emoray.evaluation.intervals import Interval, interval
from emoray.evaluation.metrics import categorical
from emoray.lake.tables import Lake
from emoray.models.build import WITHOUT_GRADIENT
from emoray.models.config import ModelConfig
from emoray.training.build import build_learner, plan_run
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.loader import LocalLoader
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import fit
from emoray.training.predict import predict

#: For 160 training clips of five speakers: strong regularisation, small batches, masked log-mels.
OVERRIDES: dict[str, Any] = {
    "model": {
        "classes": list(FOUR_CLASSES),
        "dropout": 0.5,
        "encoder": {"logmel": {"dropout": 0.3}},
    },
    "train": {
        "epochs": 40,
        "plan": {"batch_size": 16},
        "augment": {"crop_s": 3.0, "time_masks": 2, "mel_masks": 2, "mel_mask_width": 12},
        "objective": {"ccc": 0.0, "category": 1.0, "region": 0.0},  # without dimensions there are no regions
        "optimizer": {"lr": 5.0e-4, "weight_decay": 0.05},
    },
}
#: The models, and what differs in each; an epoch of CNN14, a quarter as wide as published, costs ten of the others'.
MODELS: dict[str, dict[str, Any]] = {
    "acoustic": {"model": {"name": "acoustic"}},
    "cnn14": {"model": {"name": "cnn14", "encoder": {"kind": "cnn14"}}, "train": {"epochs": 20}},
    "emosphere": {"model": {"name": "emosphere"}},
    "mean": {"model": {"name": "mean"}},
}
TITLES = {
    "acoustic": "acoustic, logmel encoder",
    "cnn14": "cnn14, a quarter as wide",
    "emosphere": "emosphere, logmel encoder",
    "mean": "train mean",
    "svm": "log-mel statistics, SVM",
}


def neural_fold(
    training_set: TrainingSet, model: ModelConfig, train: TrainConfig, launch: LaunchConfig, fold: int
) -> pl.DataFrame:
    """Train without one speaker and predict its clips."""
    left_out = pl.col("fold") == fold
    train_ids = training_set.frame.filter(~left_out)["utterance_id"].to_list()
    plan = plan_run(training_set, train_ids, model, train)
    learner = build_learner(training_set, train_ids, model, train, launch, total_steps=plan.num_rows)
    epochs = itertools.count()
    fit(learner, plan, LocalLoader(training_set, train), lambda _: {"score": next(epochs)})  # the last epoch is best
    test_ids = training_set.frame.filter(left_out)["utterance_id"].to_list()
    return predict(learner.model, training_set, test_ids, "audio", batch_size=launch.eval_batch_size)


def log_mel_statistics(training_set: TrainingSet) -> np.ndarray:
    """Mean, standard deviation, 10th and 90th percentile of each log-mel, and the deviation of its differences."""
    rows = []
    for name in training_set.frame["utterance_id"]:
        mel_TF = training_set.collate([name]).features_BTF[0].numpy()
        low, high = np.percentile(mel_TF, [10, 90], axis=0)
        rows.append(np.concatenate([mel_TF.mean(0), mel_TF.std(0), low, high, np.diff(mel_TF, axis=0).std(0)]))
    return np.stack(rows)


def svm_predictions(training_set: TrainingSet) -> pl.DataFrame:
    """The support vector machine on the same folds."""
    features_NF, frame = log_mel_statistics(training_set), training_set.frame
    fold, emotion = frame["fold"].to_numpy(), np.array(frame["emotion"].to_list())
    predicted = np.empty_like(emotion)
    for left_out in np.unique(fold):
        train = fold != left_out
        machine = make_pipeline(StandardScaler(), SVC(C=1.0, class_weight="balanced"))
        predicted[~train] = machine.fit(features_NF[train], emotion[train]).predict(features_NF[~train])
    return frame.rename({"emotion": "emotion_true"}).with_columns(emotion_pred=pl.Series(predicted))


def configured(sections: Sections, name: str, seed: int, epochs: int | None = None) -> tuple[ModelConfig, TrainConfig]:
    """A model of `MODELS` and how it is trained; with other epochs for a trial."""
    model, train = (merge(OVERRIDES[part], MODELS[name].get(part, {})) for part in ("model", "train"))
    return sections.changed(model, {**train, "seed": seed, **({"epochs": epochs} if epochs else {})})


def opened(sections: Sections, model: ModelConfig) -> TrainingSet:
    """The corpus packed for a model's encoder."""
    set_hash = pack_corpus(sections, sections.corpus.name, {}, lambda *_: None, model)
    return TrainingSet.open(Lake(sections.lake), set_hash, classes=model.classes)


def runs_of(
    sections: Sections,
    name: str,
    training_set: TrainingSet,
    seeds: int,
    folds: int | None = None,
    epochs: int | None = None,
) -> list[pl.DataFrame]:
    """Pooled predictions of all folds, or the first few, for each seed."""
    runs = []
    for seed in range(seeds):
        model, train = configured(sections, name, seed, epochs)
        parts = []
        for fold in range(training_set.frame["fold"].n_unique())[:folds]:
            began = time.process_time()
            parts.append(neural_fold(training_set, model, train, sections.launch, fold))
            clips, speaker, taken = parts[-1].height, parts[-1]["speaker_id"][0], time.process_time() - began
            print(
                f"{name}, seed {seed}, fold {fold}: {clips} clips of speaker {speaker}, {taken:.0f} s of a core",
                flush=True,
            )
        runs.append(pl.concat(parts).sort("utterance_id"))
        if model.name in WITHOUT_GRADIENT:
            break  # no seed changes it
    return runs


def table(results: Mapping[str, Interval], clips: int, speakers: int) -> str:
    """The printed lines: UAR and its interval for each model."""
    lines = [f"EMO-DB, {clips} clips of {speakers} speakers, 4 classes, leave one speaker out, pooled UAR"]
    for name, value in results.items():
        spread = "" if value.seed_sd is None else f", sd over seeds {value.seed_sd:.3f}"
        lines.append(f"{name:26s} {value.estimate:.3f}  95 % interval {value.low:.3f} to {value.high:.3f}{spread}")
    return "\n".join(lines)


def main() -> None:
    """Run the folds and print UAR with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="../shared/emodb", help="folder that holds wav/ (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which (default: all)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: %(default)s)")
    parser.add_argument("--folds", type=int, help="only the first of them, as a trial: nothing is written")
    parser.add_argument("--epochs", type=int, help="as a trial, too")
    parser.add_argument(
        "--lake", default=".emoray/benchmarks", help="where the packed features go (default: %(default)s)"
    )
    options = parser.parse_args()
    if not Path(options.path).is_dir():
        sys.exit(f"no EMO-DB at {options.path}: give --path (it is free: see platform/emoray/corpora/emodb.py)")
    torch.set_num_threads(1)  # so small a model runs no faster on several

    there = ["corpus.name=emodb", "corpus.kind=emodb", f"corpus.emodb.path={options.path}"]
    sections = configuration(argparse.Namespace(lake=options.lake, set=there))
    build(sections.corpus, Lake(sections.lake), lambda _done, _total: None)
    unweighted = categorical("ua", FOUR_CLASSES)
    results = {}
    for name in options.models:
        training_set = opened(sections, configured(sections, name, 0)[0])
        runs = runs_of(sections, name, training_set, options.seeds, options.folds, options.epochs)
        results[TITLES[name]] = interval(unweighted, runs, level=0.95)
    training_set = opened(sections, configured(sections, "acoustic", 0)[0])
    machine = svm_predictions(training_set).filter(pl.col("fold") < (options.folds or math.inf))
    results[TITLES["svm"]] = interval(unweighted, machine.sort("utterance_id"), level=0.95)
    print("\n" + table(results, machine.height, machine["speaker_id"].n_unique()))
    if not (options.folds or options.epochs):
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / "emodb.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept = {name: value for name, value in before.items() if name in TITLES.values()}
        figures = kept | {name: value.to_dict() for name, value in results.items()}
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
