"""A stage's output on fixed inputs may not change without a new `version`: stale tables would pass for fresh ones.

After a change that is meant, raise the stage's `version` and record anew: EMORAY_RECORD_GOLDEN=1 pytest THIS_FILE
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from emoray.audio.moonshine import model_folder
from emoray.stages.norms import Norms
from emoray.stages.pipeline import annotate_rows, audio_stages, text_stages
from emoray.stages.quality import MeasureQuality
from emoray.stages.transcribe.stage import build_transcribe

GOLDEN = Path(__file__).with_name("golden.json")
VECTOR_PARTS = 6  # so many numbers of a vector are kept
CURVE_STEP = 25  # every so many frames of a curve are kept

#: Mean and standard deviation per measure; the clip departs from them by −2.5 … 2.5 standard deviations.
HABITS = {
    "pitch_st": (8.99, 1.5),
    "range_st": (7.5, 1.0),
    "slope_st_s": (5.11, 1.0),
    "level_db": (-21.3, 2.0),
    "change_db_s": (4.61, 1.0),
    "rate_hz": (18.7, 2.0),
    "pause_share": (0.228, 0.1),
    "voiced_share": (0.69, 0.1),
    "jitter_st": (0.0015, 0.002),
}


def glide() -> np.ndarray:
    """Two seconds of a buzzing voice, gliding from 110 to 170 Hz, in three bursts that get louder; nothing random."""
    time_s = np.arange(32_000) / 16_000
    phase = 2 * np.pi * np.cumsum(110 + 30 * time_s) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    bursts = (np.sin(2 * np.pi * 1.5 * time_s) > -0.3) * (0.05 + 0.05 * time_s)
    return (voice * bursts).astype(np.float32)


def beckett() -> np.ndarray:
    """Ten seconds of real speech, which the package of Moonshine carries."""
    samples, rate = soundfile.read(model_folder().parent / "beckett.wav", dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, 16_000).astype(np.float32)


@pytest.fixture(scope="module")
def observed(configure, guard, heard, tmp_path_factory):
    """Summaries by "stage kind@version"."""
    config = configure()
    path = tmp_path_factory.mktemp("golden") / "glide.wav"
    soundfile.write(path, np.stack([glide(), 0.5 * glide()], axis=1), 16_000, subtype="FLOAT")
    bounds = [("what", 0.05, 0.35), ("a", 0.35, 0.4), ("wonderful", 0.75, 1.0), ("day", 1.45, 1.7)]
    words = [{"word": word, "start_s": start, "end_s": end, "emphasised": None} for word, start, end in bounds]
    row: dict[str, Any] = {
        "utterance_id": "glide",
        "speaker_id": "someone",
        "language": "en",
        "split": "train",
        "transcript": "what a wonderful day",
        "words": words,
        "audio_uri": str(path),
    }
    stages = audio_stages(config)
    annotate_rows(stages, [row], guard)
    corpus = {
        name: {"mean": mean, "within": sd**2, "between": 0.0, "clips": 9.0} for name, (mean, sd) in HABITS.items()
    }
    norms = Norms(corpus, {"intercept_s": 0.05, "per_letter_s": 0.04}, {})
    text = text_stages(config, norms)
    annotate_rows(text, [row], guard)
    stages += text
    found = {name_of(stage): summary(row[stage.name]) for stage in stages}
    spoken = dict(heard[0])
    for over in ({"kind": "pocketsphinx"}, {"reference": {"times": "aligned"}}):
        stage = build_transcribe(configure({"transcribe": over}).transcribe)
        annotate_rows([stage], [spoken], guard)
        times = "aligned" if "reference" in over else ""
        found[f"{name_of(stage)}{times}"] = summary(spoken["transcribe"])
    # A clear voice: what is heard in a robot's may hang on the last digits of another processor.
    clear = {"utterance_id": "beckett", "waveform": beckett()}
    moonshine = build_transcribe(configure({"transcribe": {"kind": "moonshine"}}).transcribe)
    annotate_rows([moonshine], [clear], guard)
    found[name_of(moonshine)] = summary(clear["transcribe"])
    quality = MeasureQuality(config.quality)
    annotate_rows([quality], [spoken], guard)
    found[name_of(quality)] = summary(spoken["quality"])
    return found


def name_of(stage) -> str:
    return f"{stage.name} {stage.options().get('kind', '')}@{stage.version}"


def summary(value: Any) -> Any:
    """A value in few numbers: vectors and curves are thinned out, floats rounded to three digits."""
    if isinstance(value, dict):
        return {key: summary(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        kept = value[::CURVE_STEP] if value.ndim == 1 and len(value) != 384 else value[:VECTOR_PARTS]
        return [len(value), *(summary(float(item)) for item in kept)]
    if isinstance(value, list):
        return [summary(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def assert_close(found: Any, golden: Any, where: str) -> None:
    """Equal, numbers within what another processor or BLAS may change."""
    remedy = f"{where} is not what it was. If that is meant, raise the stage's version and record anew (see this file)"
    if isinstance(golden, dict):
        assert found.keys() == golden.keys(), remedy
        for key in golden:
            assert_close(found[key], golden[key], f"{where}.{key}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), remedy
        for index, item in enumerate(golden):
            assert_close(found[index], item, f"{where}[{index}]")
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=0.02, abs=0.01), remedy
    else:
        assert found == golden, remedy


def test_outputs_are_what_their_versions_promise(observed):
    if os.environ.get("EMORAY_RECORD_GOLDEN"):
        GOLDEN.write_text(json.dumps(observed, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(observed) == set(golden), "a stage, kind or version is new: record its output (see this file)"
    for name in golden:
        assert_close(observed[name], golden[name], name)


def test_a_changed_output_is_noticed(observed):
    name = next(name for name in observed if name.startswith("emphasis"))
    bent = json.loads(json.dumps(observed[name]))
    bent["words"][0]["prominence"] += 0.1
    with pytest.raises(AssertionError, match="version"):
        assert_close(bent, observed[name], name)
