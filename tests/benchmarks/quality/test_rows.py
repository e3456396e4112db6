"""Rows of a table: what a row's predictions depend on, and that none is trained twice."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from benchmarks.quality.rows import Job, configuration, train_missing
from training_kit import launch_config, model_config, pack_rows, planted_rows, train_config

from emoray.lake.tables import LakeConfig


def splits(clips: int) -> list[dict]:
    rows = planted_rows(clips, seed=1)
    for row in rows[::5]:
        row["split"] = "test"
    return rows


def job(folder: Path, row: str = "a row", seed: int = 0, **changes: object) -> Job:
    model = model_config(name="mean", **changes)
    _, set_hash = pack_rows(str(folder), splits(60), model)
    lake = LakeConfig(root=str(folder), storage_options={})
    return Job(row, seed, lake, set_hash, None, model, train_config(seed=seed), launch_config())


def test_a_rows_place_is_all_that_its_predictions_depend_on(tmp_path: Path) -> None:
    first = job(tmp_path)
    assert job(tmp_path, row="another name").place() == first.place()
    others = [
        job(tmp_path, seed=1),
        job(tmp_path, classes=["low", "high"]),
        Job(**{**first.__dict__, "set_hash": "other"}),
        Job(**{**first.__dict__, "levels": ("audio", "full")}),
    ]
    assert len({one.place() for one in [first, *others]}) == 5


def test_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, classes=["low", "high"]), job(tmp_path, row="the same", classes=["low", "high"])]
    lines: list[str] = []
    train_missing(jobs, 1, lambda what, *_: lines.append(what))
    assert len(lines) == 1  # the two rows ask for one model
    frame = jobs[1].predictions()
    assert frame["split"].unique().to_list() == ["test"]
    assert frame.height == 12
    truth = [row["valence"] for row in splits(60) if row["split"] == "train"]
    assert frame["valence_pred"].to_list() == pytest.approx([sum(truth) / len(truth)] * 12, abs=1e-6)
    assert frame["core_s"][0] > 0
    train_missing(jobs, 1, lambda what, *_: lines.append(what))
    assert len(lines) == 1


def test_options_change_the_preset_by_their_path() -> None:
    options = argparse.Namespace(lake="there", set=["train.plan.batch_size=7", "model.granularities=[gs]"])
    sections = configuration(options)
    assert sections.lake.root == "there"
    assert sections.train.plan.batch_size == 7
    assert sections.model.granularities == ["gs"]
    model, train = sections.changed({"name": "text"}, {"seed": 3})
    assert (model.name, model.granularities, train.seed, train.plan.batch_size) == ("text", ["gs"], 3, 7)
