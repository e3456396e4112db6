"""Real voices: EMO-DB, four classes, leave one speaker out, every model that needs no text, trained from scratch.

    python -m benchmarks.quality.emodb [--path FOLDER] [--models acoustic cnn14 emosphere mean …] [--seeds 2]

Each fold leaves one speaker out for testing and trains on the others for a fixed number of epochs; the last weights are
used, because there is no speaker left to select by. UAR over the pooled predictions, intervals over speakers. The
acoustic model is trained with each kind of offline encoder, and set against support vector machines on the same
features and clips, the usual method for so small a corpus: `statistics_svm`, and on log-mels one with five statistics.
These measure features against the speaker (`model.encoder.speaker_norms`), of whom no clip is known, or ten: training
draws one of the two per clip, the machines are fitted to each separately, and enrolment clips are not tested.
Features and predictions are kept in the lake. A fold of the six takes 28 s of a core with `acoustic`, 34 with
`emosphere` and 184 with `cnn14`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from benchmarks.quality.folds import Recipe, enrolled_conditions, ids_of, knowing, line, predicted, uar, uar_gain
from benchmarks.quality.rows import RESULTS, Sections, configuration, pack_corpus
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emoray.config import merge
from emoray.corpora import build
from emoray.corpora.emodb import FOUR_CLASSES
from emoray.evaluation.intervals import Interval
from emoray.lake.tables import Lake
from emoray.models.build import WITHOUT_GRADIENT
from emoray.models.config import ModelConfig
from emoray.stages.conditions import FittedCondition
from emoray.training.config import TrainConfig
from emoray.training.data.training_set import TrainingSet

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
#: Over frozen states: the recipe of `benchmarks.quality.ravdess`, chosen there, not here.
FROZEN: dict[str, Any] = {
    "augment": {"time_masks": 0, "mel_masks": 0},
    "optimizer": {"lr": 1.0e-3, "weight_decay": 0.01},
}
#: Enrolment clips of a speaker, at most.
ENROLMENTS = (10, 0)


def _over(name: str, kind: str, *, norms: bool = True) -> dict[str, Any]:
    return {"name": name, "encoder": {"kind": kind, "speaker_norms": norms}}


#: The models, and what differs in each; an epoch of CNN14, a quarter as wide as published, costs ten of the others'.
MODELS: dict[str, dict[str, Any]] = {
    "acoustic": {"model": _over("acoustic", "logmel")},
    "acoustic_moonshine": {"model": _over("acoustic", "moonshine"), "train": FROZEN},
    "acoustic_both": {"model": _over("acoustic", "moonshine_logmel"), "train": FROZEN},
    "svm_logmel": {"model": _over("statistics_svm", "logmel")},
    "svm_moonshine": {"model": _over("statistics_svm", "moonshine")},
    "svm_both": {"model": _over("statistics_svm", "moonshine_logmel")},
    "cnn14": {"model": _over("cnn14", "cnn14", norms=False), "train": {"epochs": 20}},
    "emosphere": {"model": _over("emosphere", "logmel", norms=False)},
    "mean": {"model": _over("mean", "logmel", norms=False)},
}
TITLES = {
    "acoustic": "acoustic, logmel encoder",
    "acoustic_moonshine": "acoustic, moonshine",
    "acoustic_both": "acoustic, moonshine_logmel",
    "svm_logmel": "SVM, logmel",
    "svm_moonshine": "SVM, moonshine",
    "svm_both": "SVM, moonshine_logmel",
    "cnn14": "cnn14, a quarter as wide",
    "emosphere": "emosphere, logmel encoder",
    "mean": "train mean",
    "svm": "log-mel statistics, SVM",
}
#: A model, and what it is set against on the same clips.
AGAINST = {
    "acoustic": "svm_logmel",
    "acoustic_moonshine": "svm_moonshine",
    "acoustic_both": "svm_both",
}


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


def opened(sections: Sections, model: ModelConfig, under: Sequence[FittedCondition]) -> TrainingSet:
    """The corpus packed for a model's encoder under some conditions."""
    set_hash = pack_corpus(sections, sections.corpus.name, {}, lambda *_: None, model, under=under)
    return TrainingSet.open(Lake(sections.lake), set_hash, classes=model.classes)


def runs_of(
    sections: Sections,
    name: str,
    training_set: TrainingSet,
    seeds: int,
    folds: int | None = None,
    epochs: int | None = None,
) -> list[pl.DataFrame]:
    """Pooled predictions of all folds, or the first few, for each seed, under each condition that matters."""
    runs, lake = [], Lake(sections.lake)
    every = training_set.frame["fold"].unique().sort().to_list()
    for seed in range(seeds):
        recipe = Recipe(*configured(sections, name, seed, epochs))
        known = training_set.conditions if recipe.model.encoder.speaker_norms else training_set.conditions[-1:]
        # Support vector machines are fitted to each condition separately, a network once to all.
        at_once = [[one] for one in known] if recipe.model.name in WITHOUT_GRADIENT else [known]
        parts = []
        for fold in every[:folds]:
            began, others = time.process_time(), ids_of(training_set, [one for one in every if one != fold])
            test = ids_of(training_set, [fold])
            asked = (lake, training_set, recipe, sections.launch, others, test)
            parts.append(pl.concat([predicted(*asked, conditions) for conditions in at_once]))
            clips, speaker, taken = len(test), parts[-1]["speaker_id"][0], time.process_time() - began
            print(
                f"{name}, seed {seed}, fold {fold}: {clips} clips of speaker {speaker}, {taken:.0f} s of a core",
                flush=True,
            )
        runs.append(pl.concat(parts).sort("level", "utterance_id"))
        if recipe.model.name in WITHOUT_GRADIENT:
            break  # no seed changes it
    return runs


def table(results: Mapping[str, Interval], clips: int, speakers: int) -> str:
    """The printed lines: UAR and its interval for each model."""
    lines = [f"EMO-DB, {clips} clips of {speakers} speakers, 4 classes, leave one speaker out, pooled UAR"]
    return "\n".join([*lines, *(line(name, value) for name, value in results.items())])


def main() -> None:
    """Run the folds and print UAR with its interval, and paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="../shared/emodb", help="folder that holds wav/ (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which (default: all)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: %(default)s)")
    parser.add_argument("--folds", type=int, help="only the first of them, as a trial: nothing is written")
    parser.add_argument("--epochs", type=int, help="as a trial, too")
    parser.add_argument("--lake", default=".emoray/benchmarks", help="what is kept between runs (default: %(default)s)")
    options = parser.parse_args()
    if not Path(options.path).is_dir():
        sys.exit(f"no EMO-DB at {options.path}: give --path (it is free: see platform/emoray/corpora/emodb.py)")
    torch.set_num_threads(1)  # so small a model runs no faster on several

    there = ["corpus.name=emodb", "corpus.kind=emodb", f"corpus.emodb.path={options.path}"]
    sections = configuration(argparse.Namespace(lake=options.lake, set=there))
    build(sections.corpus, Lake(sections.lake), lambda _done, _total: None)
    under = enrolled_conditions(sections, sections.corpus.name, ENROLMENTS)
    results, runs = {}, {}
    for name in options.models:
        training_set = opened(sections, configured(sections, name, 0)[0], under)
        every = runs_of(sections, name, training_set, options.seeds, options.folds, options.epochs)
        for clips in reversed(ENROLMENTS):
            known = knowing(every, clips)
            if not known[0].is_empty():
                runs[name, clips] = known
                results[f"{TITLES[name]}, {clips} clips"] = uar(known, FOUR_CLASSES)
    training_set = opened(sections, configured(sections, "acoustic", 0)[0], under)
    machine = svm_predictions(training_set).filter(pl.col("fold") < (options.folds or math.inf))
    results[TITLES["svm"]] = uar([machine], FOUR_CLASSES)
    print("\n" + table(results, machine.height, machine["speaker_id"].n_unique()))
    gains = {
        f"{TITLES[name]} − {TITLES[other]}, {clips} clips": uar_gain(
            runs[name, clips], runs[other, clips], FOUR_CLASSES
        )
        for name, other in AGAINST.items()
        for clips in reversed(ENROLMENTS)
        if (name, clips) in runs and (other, clips) in runs
    }
    print("\n".join(line(name, value, "+") for name, value in gains.items()))
    if not (options.folds or options.epochs):
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / "emodb.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept = {name: value for name, value in before.items() if name.endswith(" clips")}
        figures = kept | {name: value.to_dict() for name, value in (results | gains).items()}
        path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
