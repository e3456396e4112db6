"""What the stages' tests share: the preset, a handful of synthesised clips, and rows built by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from emoray.config import merge, read_preset, validate
from emoray.corpora.synthetic.build import SyntheticConfig, build
from emoray.lake.tables import Lake, LakeConfig
from emoray.stages.config import AnnotateConfig
from emoray.stages.guard import GuardConfig
from emoray.stages.norms import Norms
from emoray.stages.pipeline import annotate_rows, audio_stages


@pytest.fixture(scope="session")
def configure():
    """Build the annotate section from the preset and overrides given as a tree."""

    def build_config(over: dict[str, Any] | None = None) -> AnnotateConfig:
        return validate(AnnotateConfig, merge(read_preset("laptop")["annotate"], over or {}))

    return build_config


@pytest.fixture(scope="session")
def config(configure) -> AnnotateConfig:
    return configure()


@pytest.fixture(scope="session")
def guard() -> GuardConfig:
    return GuardConfig(max_attempts=3, backoff_s=0.0)


@pytest.fixture(scope="session")
def synthesised(tmp_path_factory) -> list[dict[str, Any]]:
    """Rows of a small synthetic corpus, six voices with four clips each, nothing annotated yet."""
    lake = Lake(LakeConfig(root=str(tmp_path_factory.mktemp("lake")), storage_options={}))
    counts = {"train": 3, "dev": 1, "gate": 1, "test": 1}
    clips = dict.fromkeys(counts, 4)
    corpus = SyntheticConfig.model_validate(
        {
            "seed": 0,
            "speakers": counts,
            "utterances_per_speaker": clips,
            "opposed_fraction": 0.5,
            "label_noise_sd": 0.05,
            "dialogue_turns": 0,
            "carry_over": 0.0,
            "processes": 2,
        }
    )
    return build("synthetic", corpus, lake, lambda done, total: None).to_pylist()


@pytest.fixture(scope="session")
def heard(synthesised, config, guard) -> list[dict[str, Any]]:
    """The same rows after the audio pass, waveforms and all. Copy before adding to them."""
    rows = copy.deepcopy(synthesised)
    annotate_rows(audio_stages(config), rows, guard)
    return rows


@pytest.fixture(scope="session")
def norms(heard, config) -> Norms:
    return Norms.fit(heard, config.norms)


@pytest.fixture
def spoken(heard):
    """A fresh copy of the heard rows that a test may change."""
    return [dict(row) for row in heard]


@pytest.fixture(scope="session")
def plain_norms() -> Norms:
    """Norms with round figures: mean 0, variance 1 within and 3 between speakers; a word lasts .1 s per letter."""
    from emoray.stages.prosodic_features import MEASURES

    figure = {"mean": 0.0, "within": 1.0, "between": 3.0, "clips": 100.0}
    return Norms(dict.fromkeys(MEASURES, figure), {"intercept_s": 0.0, "per_letter_s": 0.1}, {})


@pytest.fixture(scope="session")
def speak():
    """A row whose prosody is given word by word: (word, start_s, end_s, F0 in Hz or 0, energy in dB)."""

    def build_row(words, duration_s: float, **columns: Any) -> dict[str, Any]:
        hop_s = 0.01
        f0_hz = np.zeros(round(duration_s / hop_s), np.float32)
        energy_db = np.full(len(f0_hz), -90.0, np.float32)
        for _, start_s, end_s, pitch_hz, level_db in words:
            f0_hz[round(start_s / hop_s) : round(end_s / hop_s)] = pitch_hz
            energy_db[round(start_s / hop_s) : round(end_s / hop_s)] = level_db
        timed = [{"word": w, "start_s": start, "end_s": end, "emphasised": None} for w, start, end, _, _ in words]
        return {
            "utterance_id": "by-hand",
            "speaker_id": None,
            "split": "train",
            "prosody": {"f0_hz": f0_hz, "energy_db": energy_db, "hop_s": hop_s},
            "transcribe": {
                "text": " ".join(word[0] for word in words),
                "words": timed,
                "language": "en",
                "confidence": None,
                "times": "corpus",
            },
            **columns,
        }

    return build_row
