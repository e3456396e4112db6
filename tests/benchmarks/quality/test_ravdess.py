"""RAVDESS: what a file's name says, who is tested when, and that nothing is chosen on who is tested."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import soundfile
from benchmarks.quality import ravdess
from benchmarks.quality.rows import configuration

from emoray.lake.tables import Lake
from emoray.schema import utterances_table
from emoray.stages.conditions import FittedCondition


def write_actors(folder: Path, per_class: int = 1) -> None:
    """Eight actors, one in two folds of four; each class has its own pitch."""
    for actor in range(1, 13):
        (folder / f"Actor_{actor:02d}").mkdir(parents=True)
        for emotion in range(1, 9):
            time = np.arange(3200) / 16_000
            tone = 0.1 * np.sin(2 * np.pi * (200 * emotion + actor) * time)
            name = f"03-01-{emotion:02d}-01-01-01-{actor:02d}.flac"
            soundfile.write(folder / f"Actor_{actor:02d}" / name, tone, 16_000)
    (folder / "Actor_01" / "03-02-01-01-01-01-01.wav").touch()  # a song: not read


def test_names_are_read(tmp_path: Path) -> None:
    write_actors(tmp_path)
    rows = ravdess.read(tmp_path)
    assert len(rows) == 96
    first = rows[0]
    assert (first["speaker_id"], first["gender"], first["emotion"], first["fold"]) == ("01", "male", "neutral", 0)
    assert (rows[-1]["emotion"], rows[-1]["fold"], rows[-1]["gender"]) == ("surprise", 2, "female")


def test_recipes_are_chosen_and_models_trained_without_the_tested_actors(tmp_path: Path, monkeypatch) -> None:
    write_actors(tmp_path / "audio")
    sections = configuration(argparse.Namespace(lake=str(tmp_path / "lake"), set=[]))
    Lake(sections.lake).write_utterances("ravdess", utterances_table(ravdess.read(tmp_path / "audio")))
    actor_of = {str(row["utterance_id"]): str(row["speaker_id"]) for row in ravdess.read(tmp_path / "audio")}
    calls = []

    under = [FittedCondition(name, {}, "no such norms") for name in ("enrolled-20/reference", "unknown/reference")]

    def note(_lake, training_set, recipe, _launch, train_ids, test_ids, _conditions):
        calls.append(({actor_of[name] for name in train_ids}, {actor_of[name] for name in test_ids}, recipe))
        part = training_set.frame.filter(pl.col("utterance_id").is_in(list(test_ids)))
        return part.rename({"emotion": "emotion_true"}).with_columns(emotion_pred=pl.lit("calm"))

    monkeypatch.setattr(ravdess, "predicted", note)
    runs, machines = ravdess.measured(sections, "logmel", 2, under)
    assert [run.height for run in runs] == [96, 96]
    assert machines.height == 2 * 96  # fitted to each condition
    monkeypatch.setitem(ravdess.RECIPES, "logmel", ({}, {"epochs": 3}))
    calls.clear()
    ravdess.measured(sections, "logmel", 1, under)
    for place in range(0, len(calls), 5):
        first, second, final, *machines = calls[place : place + 5]
        assert not final[0] & final[1]
        assert final[2].train.epochs == first[2].train.epochs != second[2].train.epochs  # both are as good: the first
        assert [machine[2].model.name for machine in machines] == ["statistics_svm"] * 2
        for inner in (first, second):
            assert not (inner[0] | inner[1]) & final[1]
            assert not inner[0] & inner[1]
