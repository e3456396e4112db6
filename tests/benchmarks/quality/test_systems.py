"""The table of systems: which rows it has, what they are compared with, and how they are shown."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmarks.quality.page import Scored, write_page
from benchmarks.quality.rows import Job, configuration
from benchmarks.quality.systems import LOG_MELS, ROWS, SYSTEMS, chosen, jobs_of

from emoray.models.build import MODELS, build

HASHES = {
    (False, "logmel"): "set-of-logmel",
    (False, "cnn14"): "set-of-cnn14",
    (True, "logmel"): "set-of-dialogues",
}
DIMENSIONS = ("valence", "arousal", "dominance")


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    sections = configuration(argparse.Namespace(lake="nowhere", set=[]), *LOG_MELS)
    return jobs_of(chosen(None), 3, sections, HASHES)


def test_every_row_is_named_once_and_compared_with_one_of_its_kind() -> None:
    assert len(ROWS) == sum(map(len, SYSTEMS.values()))
    for row in ROWS.values():
        assert row.under is None or ROWS[row.under].classes == row.classes
    for rows in SYSTEMS.values():
        assert len({row.classes for row in rows}) == 1  # one table shows CCC or UA


def test_every_model_is_in_the_table() -> None:
    # Two need a pre-trained encoder, which is not to be had offline; one stands beside every model's report.
    left_out = {"challenge", "wav2vec2_dim", "statistics_svm"}
    assert {row.model["name"] for row in ROWS.values()} == set(MODELS) - left_out


def test_rows_are_different_models_with_as_many_seeds(jobs: list[Job]) -> None:
    assert len({job.place() for job in jobs}) == len(jobs)
    seeds = {name: [job.seed for job in jobs if job.row == name] for name in ROWS}
    assert seeds.pop("train mean") == [0]
    assert seeds.pop("train mean, classes") == [0]
    assert {tuple(each) for each in seeds.values()} == {(0, 1, 2)}
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)


def test_rows_differ_from_the_row_above_in_what_they_are_named_for(jobs: list[Job]) -> None:
    first = {job.row: job for job in reversed(jobs)}
    assert first["without LES"].model.granularities == ["gs", "es"]
    assert first["one router for V, A and D"].model.fusion.moe.router == "shared"
    assert first["softmax gate"].model.fusion.gate == "softmax"
    sphere, without = first["EmoSphere-SER"], first["EmoSphere-SER without its region loss"]
    assert sphere.model == without.model
    assert (sphere.train.objective.region, without.train.objective.region) == (1.0, 0.0)
    family = [first[name] for name in ("multistage", "single-stage", "late fusion", "cnn14: sound alone", "text: GS")]
    assert {job.set_hash for job in family} == {"set-of-cnn14"}
    assert len({job.train.model_dump_json() for job in family}) == 1  # the same budget
    assert first["multistage"].model.encoder.cnn14.width == 0.25
    categorical = first["multistage, classes"]
    assert (categorical.train.objective.ccc, categorical.train.objective.category) == (0.0, 1.0)
    assert categorical.train.epochs == first["multistage"].train.epochs
    assert build(categorical.model).head is not None
    dialogues = [job for name, job in first.items() if ROWS[name].dialogues]
    assert {(job.set_hash, job.train.objective.ccc) for job in dialogues} == {("set-of-dialogues", 0.0)}
    assert len({(one.model.perspective.fusion, one.model.perspective.operator) for one in dialogues}) == 9
    deltas = {
        name: first[name].train.objective.modalities
        for name in ("late fusion by addition", "without the modalities' own losses")
    }
    assert list(deltas.values()) == [1.0, 0.0]


def test_only_chosen_rows_are_trained() -> None:
    picked = chosen(["without ES", "multistage"])
    assert [[row.name for row in rows] for rows in picked.values()] == [["without ES"], ["multistage"]]


def frame(noise: float, seed: int) -> pl.DataFrame:
    """Predictions that are the label and noise, 10 speakers of 20 clips; half of the clips are `low` and said to be."""
    truth = np.random.default_rng(0).uniform(size=(200, 3))
    pred = truth + np.random.default_rng(seed).normal(scale=noise, size=(200, 3))
    return pl.DataFrame(
        {
            "utterance_id": [f"u{i}" for i in range(200)],
            "speaker_id": [f"s{i % 10}" for i in range(200)],
            "emotion_true": ["low", "high", "high", "high"] * 50,
            "emotion_pred": ["low", "high", "low", "low"] * 50 if noise > 0.1 else ["low", "high", "high", "high"] * 50,
            **{f"{name}_true": truth[:, d] for d, name in enumerate(DIMENSIONS)},
            **{f"{name}_pred": pred[:, d] for d, name in enumerate(DIMENSIONS)},
        }
    )


def scored(
    row: str, noise: float, under: str | None = None, classes: tuple[str, ...] = (), model: str = "msf_ser"
) -> Scored:
    train = {"epochs": 12, "plan": {"batch_size": 64}, "augment": {"crop_s": 3.0}}
    kind = {"name": model, "classes": list(classes), "encoder": {"kind": "logmel"}}
    return Scored(row, under, [frame(noise, seed) for seed in (1, 2)], {"model": kind, "train": train}, 90.0)


@pytest.fixture
def page(tmp_path: Path) -> tuple[list[str], dict]:
    both = ("low", "high")
    systems = {
        "A system": [
            scored("whole", 0.05),
            scored("a part", 0.3, "whole"),
            scored("orphan", 0.3, "not chosen", model="mean"),
        ],
        "Classes": [scored("named", 0.05, None, both), scored("confused", 0.3, "named", both)],
    }
    ceiling = {"arousal": 0.9, "dominance": 0.8, "valence": 1.0}  # in any order
    text = write_page(tmp_path / "systems", "T", "", systems, classes=both, ceiling=ceiling, seconds=120, processes=2)
    assert (tmp_path / "systems.md").read_text() == text
    return text.splitlines(), json.loads((tmp_path / "systems.json").read_text())


def cells(lines: list[str], start: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_rows_are_shown_with_intervals_and_how_they_were_trained(page: tuple[list[str], dict]) -> None:
    lines, document = page
    assert cells(lines, "ceiling")[:4] == ["1.000", "0.900", "0.800", "0.900"]
    whole = cells(lines, "whole")
    value = document["rows"]["whole"]["values"]["valence"]
    assert 0.95 < value["low"] < value["estimate"] < value["high"] < 1
    assert whole[0] == f"{value['estimate']:.3f} ± {value['seed_sd']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    assert whole[4:] == ["2", "logmel, 12, 64, 3.0 s", "90"]
    assert cells(lines, "orphan")[5] == "no step"
    assert "All trainings: 15 min of a core." in "\n".join(lines)  # 5 rows, 2 seeds, 90 s
    assert "evidence about people" in "\n".join(lines)


def test_differences_are_paired_with_the_row_above_and_bold_without_zero(page: tuple[list[str], dict]) -> None:
    lines, document = page
    part = cells(lines, "whole − a part")
    assert all(cell.startswith("**+") for cell in part)
    assert len(part) == 4
    assert document["rows"]["a part"]["difference"]["mean"]["low"] > 0
    assert document["rows"]["orphan"]["difference"] == {}


def test_classes_are_judged_by_ua_and_wa(page: tuple[list[str], dict]) -> None:
    _, document = page
    values = document["rows"]["confused"]["values"]
    # All of `low` and one of three of `high`: UA (1 + 1/3) / 2, WA (1 + 1) / 4.
    assert values["UA"]["estimate"] == pytest.approx(2 / 3)
    assert values["WA"]["estimate"] == pytest.approx(1 / 2)
    assert set(values) == {"UA", "WA"}
    assert document["rows"]["confused"]["difference"]["UA"]["estimate"] == pytest.approx(1 / 3)
