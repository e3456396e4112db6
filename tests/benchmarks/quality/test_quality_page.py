from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from benchmarks.quality.page import Scored, write_quality

CEILING = {"arousal": 0.9, "dominance": 0.8, "valence": 1.0}  # in any order


def frame(noise: float, seed: int, level: str = "full") -> pl.DataFrame:
    """Predictions that are the label and noise, 10 speakers of 20 clips; dominance is never predicted."""
    truth = np.random.default_rng(0).uniform(size=(200, 3))
    pred = truth + np.random.default_rng(seed).normal(scale=noise, size=(200, 3))
    names = ("valence", "arousal", "dominance")
    return pl.DataFrame(
        {
            "utterance_id": [f"u{i}" for i in range(200)],
            "speaker_id": [f"s{i % 10}" for i in range(200)],
            "level": level,
            **{f"{name}_true": truth[:, d] for d, name in enumerate(names)},
            **{f"{name}_pred": pred[:, d] if d < 2 else np.full(200, 0.5) for d, name in enumerate(names)},
        }
    )


@pytest.fixture
def page(tmp_path) -> tuple[str, dict]:
    both = [pl.concat([frame(0.05, seed), frame(0.3, seed, "recognised")]) for seed in (1, 2)]
    dimensional = {"model": {"classes": []}}
    rows = [
        Scored("MSF-SER", None, both, dimensional, 90.0),
        Scored("noisy", "MSF-SER", [frame(0.2, seed) for seed in (3, 4)], dimensional, 90.0),
    ]
    text = write_quality(tmp_path, rows, ceiling=CEILING, wer=0.71, seconds=120, settings={"x": 1})
    assert (tmp_path / "quality.md").read_text() == text
    return text, json.loads((tmp_path / "quality.json").read_text())


def test_the_table_shows_each_row_against_the_ceiling(page):
    text, document = page
    rows = {row["row"]: row for row in document["rows"]}
    assert list(rows) == ["MSF-SER", "MSF-SER, scored with recognised transcripts (word error rate 0.71)", "noisy"]
    ccc = rows["MSF-SER"]["ccc"]
    assert ccc["dominance"] == 0
    assert ccc["valence"] > 0.95
    assert ccc["mean"] == pytest.approx((ccc["valence"] + ccc["arousal"]) / 3)
    assert "| ceiling | 1.000 | 0.900 | 0.800 | 0.900 | 1.00 |" in text
    assert f"| {ccc['mean'] / 0.9:.2f} |" in text
    assert "no\nevidence" in text or "no evidence" in text.replace("\n", " ")


def test_only_differences_whose_interval_excludes_zero_are_bold(page):
    text, document = page
    difference = document["differences"]["noisy"]
    assert 0 < difference["valence"]["low"] < difference["valence"]["estimate"] < difference["valence"]["high"]
    line = next(line for line in text.splitlines() if line.startswith("| noisy | ") and "[" in line)
    valence, arousal, dominance, _ = (cell.strip() for cell in line.strip("|").split("|")[1:])
    assert valence.startswith("**+")
    assert arousal.startswith("**+")
    assert dominance == "+0.000 [+0.000, +0.000]"
