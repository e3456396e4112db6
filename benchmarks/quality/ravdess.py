"""Real voices: RAVDESS, eight emotions, four folds of four actors that the model has never heard.

    python -m benchmarks.quality.ravdess --path FOLDER [--encoders logmel moonshine moonshine_logmel] [--seeds 2]

FOLDER holds Actor_01 and so on, with audio files in RAVDESS's own names. The acoustic model is trained with each kind
of encoder for a fixed number of epochs, and `statistics_svm` on the same features and clips. Both measure features
against the speaker (`model.encoder.speaker_norms`), of whom 0, 2, 5, 10 or 20 enrolment clips are known: training draws
one of these states per clip; the machines are fitted to each separately. Enrolment clips are not tested. There is no
dev split: which of two recipes a fold uses is chosen within its twelve training actors (trained on eight, judged on
four), never on those that it is tested on. UAR over the pooled predictions, intervals over the sixteen speakers,
differences on the same clips. Features and predictions are kept in the lake: another run prints them at once.

Livingstone & Russo 2018, doi 10.1371/journal.pone.0196391, CC BY-NC-SA: measurements only, no weights are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import soundfile
import torch
from benchmarks.quality.folds import (
    Recipe,
    by_fold,
    enrolled_conditions,
    ids_of,
    knowing,
    line,
    predicted,
    uar,
    uar_gain,
)
from benchmarks.quality.rows import RESULTS, Sections, configuration, pack_corpus

from emoray.config import merge
from emoray.evaluation.intervals import Interval
from emoray.lake.tables import Lake
from emoray.schema import empty_row, utterances_table
from emoray.stages.conditions import FittedCondition
from emoray.training.data.training_set import TrainingSet

CORPUS = "ravdess"
CLASSES = ["neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise"]
SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
#: Modality 03 (sound alone), channel 01 (speech), emotion, intensity, sentence, repetition, actor.
NAME = re.compile(r"03-01-(?P<emotion>0[1-8])-\d\d-(?P<sentence>0[12])-\d\d-(?P<actor>\d\d)\.(wav|flac)")
ACTORS_PER_FOLD = 4
#: Enrolment clips of a speaker, at most.
ENROLMENTS = (20, 10, 5, 2, 0)
ENCODERS = ("logmel", "moonshine", "moonshine_logmel")
#: For 720 clips of twelve speakers; on clips of EMO-DB, `benchmarks.quality.emodb` uses nearly the same.
MODEL: dict[str, Any] = {
    "name": "acoustic",
    "classes": CLASSES,
    "dropout": 0.5,
    "encoder": {"logmel": {"dropout": 0.3}},
}
TRAIN: dict[str, Any] = {
    "epochs": 40,
    "plan": {"batch_size": 32},
    "objective": {"ccc": 0.0, "category": 1.0, "region": 0.0},
    "augment": {"crop_s": 3.0},
}
MASKS: dict[str, Any] = {"augment": {"time_masks": 2, "mel_masks": 2, "mel_mask_width": 12}}
#: What differs between the recipes that a fold chooses from, by kind of encoder.
RECIPES: dict[str, tuple[dict[str, Any], ...]] = {
    "logmel": ({"optimizer": {"lr": 5.0e-4, "weight_decay": 0.05}, **MASKS},),
    "moonshine": ({}, {"augment": {"time_masks": 2, "time_mask_s": 0.4}}),
    "moonshine_logmel": ({}, {"augment": {"time_masks": 2, "time_mask_s": 0.4}}),
}


def recipe(sections: Sections, kind: str, number: int, seed: int) -> Recipe:
    """A kind's recipe."""
    train = merge(TRAIN, RECIPES[kind][number])
    encoder = {"kind": kind, "speaker_norms": True}
    return Recipe(*sections.changed(merge(MODEL, {"encoder": encoder}), {**train, "seed": seed}))


def machine(sections: Sections, kind: str) -> Recipe:
    """The support vector machines on the same features."""
    encoder = {"kind": kind, "speaker_norms": True}
    return Recipe(*sections.changed(merge(MODEL, {"name": "statistics_svm", "encoder": encoder}), TRAIN))


def read(folder: Path) -> list[dict[str, object]]:
    """Rows of the utterances table; `fold` is that of the clip's actor."""
    rows = []
    for path in sorted(folder.glob("Actor_*/*")):
        match = NAME.fullmatch(path.name)
        if match:
            rows.append(
                empty_row()
                | {
                    "utterance_id": f"{CORPUS}-{path.stem}",
                    "corpus": CORPUS,
                    "audio_uri": str(path.absolute()),
                    "duration_s": soundfile.info(path).duration,
                    "speaker_id": match["actor"],
                    "gender": "male" if int(match["actor"]) % 2 else "female",
                    "language": "en",
                    "emotion": CLASSES[int(match["emotion"]) - 1],
                    "transcript": SENTENCES[match["sentence"]],
                    "fold": (int(match["actor"]) - 1) // ACTORS_PER_FOLD,
                }
            )
    return rows


def measured(
    sections: Sections, kind: str, seeds: int, under: Sequence[FittedCondition]
) -> tuple[list[pl.DataFrame], pl.DataFrame]:
    """Pooled predictions of the acoustic model for each seed, and those of the machines, under each condition."""
    lake, launch, names = Lake(sections.lake), sections.launch, [one.name for one in under]
    set_hash = pack_corpus(sections, CORPUS, {}, lambda *_: None, recipe(sections, kind, 0, 0).model, under=under)
    training_set = TrainingSet.open(lake, set_hash, classes=CLASSES)
    folds = training_set.frame["fold"].unique().sort().to_list()
    parts: list[list[pl.DataFrame]] = [[] for _ in range(seeds)]
    machines = []
    for fold in folds:
        began, others = time.process_time(), [one for one in folds if one != fold]
        train_ids, test_ids = ids_of(training_set, others), ids_of(training_set, [fold])
        judge = others[fold % len(others)]
        inner = [ids_of(training_set, part) for part in ([one for one in others if one != judge], [judge])]
        scores = []
        for number in range(len(RECIPES[kind]) if len(RECIPES[kind]) > 1 else 0):
            frame = predicted(lake, training_set, recipe(sections, kind, number, 0), launch, *inner, names)
            scores.append(by_fold([frame], CLASSES)[0])
        chosen = scores.index(max(scores)) if scores else 0
        for seed in range(seeds):
            best = recipe(sections, kind, chosen, seed)
            parts[seed].append(predicted(lake, training_set, best, launch, train_ids, test_ids, names))
        svm = machine(sections, kind)
        machines += [predicted(lake, training_set, svm, launch, train_ids, test_ids, [name]) for name in names]
        taken, within = time.process_time() - began, ", ".join(f"{score:.3f}" for score in scores) or "one only"
        now = by_fold([runs[-1] for runs in parts], CLASSES)[0]
        print(f"{kind}, fold {fold}: recipes {within}; UAR {now:.3f}; {taken:.0f} s of a core", flush=True)
    return [pl.concat(part) for part in parts], pl.concat(machines)


def main() -> None:
    """Train what is missing, print UAR with intervals, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="../shared/ravdess", help="folder of Actor_01 … (default: %(default)s)")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="default: all")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: %(default)s)")
    parser.add_argument("--lake", default=".emoray/benchmarks", help="what is kept (default: %(default)s)")
    options = parser.parse_args()
    rows = read(Path(options.path))
    if not rows:
        sys.exit(f"no RAVDESS at {options.path}: give --path (Zenodo 1188976, the files of the speech alone)")
    torch.set_num_threads(1)  # so small a model runs no faster on several
    sections = configuration(argparse.Namespace(lake=options.lake, set=[]))
    Lake(sections.lake).write_utterances(CORPUS, utterances_table(rows))
    figures: dict[str, Interval] = {}
    gains: dict[str, Interval] = {}
    per_fold = {}
    began = time.monotonic()
    under = enrolled_conditions(sections, CORPUS, ENROLMENTS)
    print(f"measured the prosody of {len(rows)} clips: {time.monotonic() - began:.0f} s", flush=True)
    for kind in options.encoders:
        every, machines = measured(sections, kind, options.seeds, under)
        for clips in reversed(ENROLMENTS):
            runs, svm, name = knowing(every, clips), knowing([machines], clips), f"{kind}, {clips} clips"
            figures[f"acoustic, {name}"], figures[f"SVM, {name}"] = uar(runs, CLASSES), uar(svm, CLASSES)
            gains[f"acoustic − SVM, {name}"] = uar_gain(runs, svm, CLASSES)
            per_fold[f"acoustic, {name}"], per_fold[f"SVM, {name}"] = by_fold(runs, CLASSES), by_fold(svm, CLASSES)
    speakers = len({row["speaker_id"] for row in rows})
    print(
        f"\nRAVDESS, {len(rows)} clips of {speakers} speakers, {len(CLASSES)} classes, speakers never trained on, UAR"
    )
    print("\n".join(line(name, value) for name, value in figures.items()))
    print("\n".join(line(name, value, "+") for name, value in gains.items()))
    for name, values in per_fold.items():
        print(f"{name:38s} by fold {' '.join(f'{value:.3f}' for value in values)}")
    path = RESULTS / "ravdess.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before = {name: value for name, value in before.items() if name.endswith(" clips")}
    made = {name: {**value.to_dict(), "by_fold": per_fold.get(name)} for name, value in (figures | gains).items()}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(before | made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
