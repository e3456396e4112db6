"""Real voices: EMO-DB, four classes, leave one speaker out, with the `logmel` encoder trained from scratch.

    python -m benchmarks.emodb [--path FOLDER] [--seeds 2]

Each fold leaves one speaker out for testing and trains on the others for a fixed number of epochs, whose last weights
count: nothing is selected, as no speaker can be spared to select by. UAR over the pooled predictions, interval by
bootstrap over speakers. Beside it, on the same clips, statistics of the same log-mels with a support vector machine,
which is what so small a corpus usually asks for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emoray.config import merge, read_preset
from emoray.corpora import CorpusConfig, build
from emoray.corpora.emodb import FOUR_CLASSES
from emoray.evaluation.bootstrap import interval
from emoray.evaluation.metrics import categorical
from emoray.lake import Lake, LakeConfig
from emoray.models.build import build as build_model
from emoray.models.build import frontend
from emoray.models.config import ModelConfig
from emoray.stages.config import AnnotateConfig
from emoray.training.batch_plan import make_plan
from emoray.training.config import TrainConfig
from emoray.training.fit import fit
from emoray.training.loader import LocalLoader
from emoray.training.objectives import class_weights
from emoray.training.pack import pack
from emoray.training.predict import predict
from emoray.training.seeds import seed_torch
from emoray.training.step import Learner
from emoray.training.training_set import TrainingSet

RESULTS = Path(__file__).parent / "results"

#: What 160 training clips of five speakers ask for: strong regularisation, small batches, masked log-mels.
OVERRIDES = {
    "model": {
        "name": "acoustic",
        "classes": list(FOUR_CLASSES),
        "dropout": 0.5,
        "encoder": {"logmel": {"dropout": 0.3}},
    },
    "train": {
        "epochs": 40,
        "plan": {"batch_size": 16},
        "augment": {"crop_s": 3.0, "time_masks": 2, "mel_masks": 2, "mel_mask_width": 12},
        "objective": {"ccc": 0.0, "category": 1.0},
        "optimizer": {"lr": 5.0e-4, "weight_decay": 0.05},
    },
}


def neural_fold(training_set: TrainingSet, model: ModelConfig, train: TrainConfig, fold: int) -> pl.DataFrame:
    """Train without one speaker and predict its clips."""
    left_out = pl.col("fold") == fold
    train_ids = training_set.frame.filter(~left_out)["utterance_id"].to_list()
    plan = make_plan(
        train_ids,
        training_set.durations_s(train_ids),
        train.plan,
        epochs=train.epochs,
        seed=train.seed,
        crop_s=train.augment.crop_s,
    )
    seed_torch(train.seed, "init")
    weights = class_weights(training_set.labels(train_ids), len(model.classes))
    learner = Learner(build_model(model), train, total_steps=plan.num_rows, class_weight_C=weights)
    epochs = itertools.count()
    fit(learner, plan, LocalLoader(training_set, train), lambda _: {"score": next(epochs)})  # the last epoch is best
    test_ids = training_set.frame.filter(left_out)["utterance_id"].to_list()
    return predict(learner.model, training_set, test_ids, "audio", batch_size=train.eval_batch_size)


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


def main() -> None:
    """Run the folds and print UAR with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="../shared/emodb", help="folder that holds wav/ (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of the neural model (default: %(default)s)")
    parser.add_argument(
        "--lake", default=".emoray/benchmarks", help="where the packed features go (default: %(default)s)"
    )
    options = parser.parse_args()
    if not Path(options.path).is_dir():
        sys.exit(f"no EMO-DB at {options.path}: give --path (it is free: see platform/emoray/corpora/emodb.py)")
    torch.set_num_threads(1)  # so small a model runs no faster on several

    preset = merge(read_preset("laptop"), OVERRIDES)
    model = ModelConfig.model_validate(preset["model"])
    lake = Lake(LakeConfig(root=options.lake, storage_options={}))
    corpus = merge(preset["corpus"], {"name": "emodb", "kind": "emodb", "emodb": {"path": options.path}})
    build(CorpusConfig.model_validate(corpus), lake, lambda _done, _total: None)
    set_hash = pack(
        lake,
        "emodb",
        {},
        frontend=frontend(model.encoder),
        audio=AnnotateConfig.model_validate(preset["annotate"]).audio,
        text_width=model.text_width,
        shard_rows=256,
    )
    training_set = TrainingSet.open(lake, set_hash, classes=model.classes)
    unweighted = categorical("ua", model.classes)
    runs = []
    for seed in range(options.seeds):
        train = TrainConfig.model_validate(merge(preset["train"], {"seed": seed}))
        folds = []
        for fold in range(training_set.frame["fold"].n_unique()):
            folds.append(neural_fold(training_set, model, train, fold))
            print(
                f"seed {seed}, fold {fold}: {folds[-1].height} clips of speaker {folds[-1]['speaker_id'][0]}",
                flush=True,
            )
        runs.append(pl.concat(folds).sort("utterance_id"))
    svm = interval(unweighted, svm_predictions(training_set).sort("utterance_id"), level=0.95)
    neural = interval(unweighted, runs, level=0.95)
    clips, speakers = training_set.frame.height, training_set.frame["speaker_id"].n_unique()
    print(f"\nEMO-DB, {clips} clips of {speakers} speakers, 4 classes, leave one speaker out, pooled UAR")
    results = {}
    for name, value in (("logmel encoder", neural), ("log-mel statistics, SVM", svm)):
        spread = "" if value.seed_sd is None else f", sd over {options.seeds} seeds {value.seed_sd:.3f}"
        print(f"{name:24s} {value.estimate:.3f}  95 % interval {value.low:.3f} to {value.high:.3f}{spread}")
        results[name] = value.to_dict()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "emodb.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
