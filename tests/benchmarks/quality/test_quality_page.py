from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from benchmarks.quality.page import Scored, write_page

CEILING = {"arousal": 0.9, "dominance": 0.8, "valence": 1.0}  # in any order


def frame(noise: float, seed: int) -> pl.DataFrame:
    """Predictions that are the label and noise, 10 speakers of 20 clips; dominance is never predicted."""
    truth = np.random.default_rng(0).uniform(size=(200, 3))
    pred = truth + np.random.default_rng(seed).normal(scale=noise, size=(200, 3))
    names = ("valence", "arousal", "dominance")
    return pl.DataFrame(
        {
            "utterance_id": [f"u{i}" for i in range(200)],
            "speaker_id": [f"s{i % 10}" for i in range(200)],
            **{f"{name}_true": truth[:, d] for d, name in enumerate(names)},
            **{f"{name}_pred": pred[:, d] if d < 2 else np.full(200, 0.5) for d, name in enumerate(names)},
        }
    )


@pytest.fixture
def page(tmp_path) -> tuple[str, dict]:
    train = {"epochs": 12, "plan": {"batch_size": 64}, "augment": {"crop_s": 3.0}}
    settings = {"model": {"name": "msf_ser", "classes": [], "encoder": {"kind": "logmel"}}, "train": train}
    rows = [
        Scored("MSF-SER", None, [frame(0.05, seed) for seed in (1, 2)], settings, 90.0),
        Scored("MSF-SER, recognised", None, [frame(0.3, seed) for seed in (1, 2)], settings, 90.0),
        Scored("noisy", "MSF-SER", [frame(0.2, seed) for seed in (3, 4)], settings, 90.0),
    ]
    path, systems = tmp_path / "quality", {"A system": rows}
    text = write_page(
        path, "A title", "And more.", systems, ceiling=CEILING, seconds=120, processes=2, word_error_rate=0.71
    )
    assert (tmp_path / "quality.md").read_text() == text
    return text, json.loads((tmp_path / "quality.json").read_text())


def test_the_table_shows_each_row_and_the_ceiling(page):
    text, document = page
    assert set(document["rows"]) == {"MSF-SER", "MSF-SER, recognised", "noisy"}
    assert document["word_error_rate"] == 0.71
    ccc = {name: value["estimate"] for name, value in document["rows"]["MSF-SER"]["values"].items()}
    assert ccc["dominance"] == 0
    assert ccc["valence"] > 0.95
    assert ccc["mean"] == pytest.approx((ccc["valence"] + ccc["arousal"]) / 3)
    assert "| ceiling | 1.000 | 0.900 | 0.800 | 0.900 |" in text
    assert f"| MSF-SER | {ccc['valence']:.3f} ± " in text
    assert "no evidence" in text.replace("\n", " ")


def test_only_differences_whose_interval_excludes_zero_are_bold(page):
    text, document = page
    assert document["rows"]["MSF-SER, recognised"]["difference"] == {}
    difference = document["rows"]["noisy"]["difference"]
    assert 0 < difference["valence"]["low"] < difference["valence"]["estimate"] < difference["valence"]["high"]
    line = next(line for line in text.splitlines() if line.startswith("| MSF-SER − noisy | "))
    valence, arousal, dominance, _ = (cell.strip() for cell in line.strip("|").split("|")[1:])
    assert valence.startswith("**+")
    assert arousal.startswith("**+")
    assert dominance == "+0.000 [+0.000, +0.000]"
