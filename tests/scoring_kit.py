"""Small but complete model bundles for the tests of scoring, registry and serving: real stages, real text encoder."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping

import numpy as np
import soundfile
import torch

from emoray.audio.io import AUDIO_HZ
from emoray.config import merge, read_preset
from emoray.models.build import build
from emoray.models.config import ModelConfig
from emoray.scoring.bundle import Bundle, save_bundle
from emoray.scoring.score import ScoreRequest
from emoray.stages.conditions import FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.norms import Norms
from emoray.stages.pipeline import annotate_rows, audio_stages, conditions, fingerprints, under

SENTENCE = "I never said that she took the money"
#: Word times that fit `speech(…)` of 2 s or longer.
WORDS = [
    {"word": word, "start_s": 0.1 + 0.22 * place, "end_s": 0.28 + 0.22 * place}
    for place, word in enumerate(SENTENCE.split())
]


def speech(seconds: float = 2.0, hz: float = 150.0, seed: int = 0) -> np.ndarray:
    """A buzz with syllables and a little noise: voiced, so that prosody finds something to measure."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * AUDIO_HZ)) / AUDIO_HZ
    phase = 2 * np.pi * np.cumsum(hz * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time_s))) / AUDIO_HZ
    buzz = sum(np.sin(k * phase) / k for k in range(1, 6))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time_s)
    return (0.2 * buzz * syllables + 0.005 * rng.normal(size=time_s.size)).astype(np.float32)


def wav_bytes(samples: np.ndarray) -> bytes:
    """The samples as a 16-bit wav file."""
    file = io.BytesIO()
    soundfile.write(file, samples, AUDIO_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()


@functools.cache
def annotate_config() -> AnnotateConfig:
    """The laptop preset's stages."""
    return AnnotateConfig.model_validate(read_preset("laptop")["annotate"])


def model_config(name: str = "msf_ser", **changes) -> ModelConfig:
    """A small model."""
    small = {
        "name": name,
        "width": 16,
        "hidden": 16,
        "attention": 8,
        "encoder": {
            "kind": "logmel",
            "speaker_norms": False,
            "logmel": {"width": 16, "layers": 1, "heads": 2},
            "cnn14": {"mels": 32, "width": 1 / 64},
        },
        "fusion": {"moe": {"experts": 3, "inner": 8}},
    }
    return ModelConfig.model_validate(merge(merge(read_preset("laptop")["model"], small), changes))


@functools.cache
def norms() -> Norms:
    """Norms of two made-up speakers: a deep one and a high one."""
    rows = []
    for number in range(20):
        name, hz = (("deep", 110.0), ("high", 230.0))[number % 2]
        rows.append(
            {
                "utterance_id": f"n{number}",
                "speaker_id": name,
                "split": "train",
                "transcript": SENTENCE,
                "words": [{**word, "emphasised": None} for word in WORDS],
                "waveform": speech(2.0, hz + number, number),
            }
        )
    annotate_rows(audio_stages(annotate_config())[1:], rows, annotate_config().guard)
    return Norms.fit(rows, annotate_config().norms)


HALF_WIDTHS = {
    "audio": {"valence": 0.3, "arousal": 0.2, "dominance": 0.25},
    "transcript": {"valence": 0.2, "arousal": 0.2, "dominance": 0.25},
    "full": {"valence": 0.2, "arousal": 0.15, "dominance": 0.1},
    "gs": {"valence": 0.22, "arousal": 0.2, "dominance": 0.25},
    "gs+es": {"valence": 0.21, "arousal": 0.15, "dominance": 0.1},
    "es": {"valence": 0.3, "arousal": 0.17, "dominance": 0.12},
}


def make_bundle(
    folder,
    name: str = "msf_ser",
    seed: int = 0,
    spread: float = 0.2,
    annotate: AnnotateConfig | None = None,
    dimensional: bool = True,
    **changes,
):
    """Write a bundle of an untrained model whose outputs stay inside the scale; stages as in the preset or as given."""
    annotate = annotate or annotate_config()
    config = model_config(name, **changes)
    torch.manual_seed(seed)
    model = build(config)
    if hasattr(model, "weight_3D"):
        with torch.no_grad():
            model.weight_3D.mul_(spread)
    return save_bundle(
        folder,
        model=model,
        config=config,
        annotate=annotate,
        conditions=[
            FittedCondition(one.name, fingerprints(under(annotate, one), norms().hash), norms().hash)
            for one in conditions(annotate)
        ],
        norms=norms(),
        half_widths=HALF_WIDTHS
        | {f"{level}/{one.name}": HALF_WIDTHS[level] for one in conditions(annotate) for level in HALF_WIDTHS},
        conformal_level=0.9,
        scale=(1.0, 7.0),
        dimensional=dimensional,
        metrics={"full/ccc_mean": 0.5},
    )


def half_widths(annotate: AnnotateConfig) -> dict[str, dict[str, float]]:
    """Those of each level, the same under each condition."""
    under_each = {f"{level}/{one.name}": HALF_WIDTHS[level] for level in HALF_WIDTHS for one in conditions(annotate)}
    return HALF_WIDTHS | under_each


def refitted(bundle: Bundle, fingerprints: Mapping[str, str], **changes) -> Bundle:
    """The bundle as if it had been fitted, under one condition, with stages of these fingerprints."""
    only = dataclasses.replace(bundle.conditions[0], fingerprints=dict(fingerprints))
    return dataclasses.replace(bundle, conditions=(only,), **changes)


def request(seconds: float = 2.0, hz: float = 150.0, **changes) -> ScoreRequest:
    """A request with a transcript and word times."""
    values = {"samples": speech(seconds, hz), "transcript": SENTENCE, "words": WORDS}
    return ScoreRequest(**(values | changes))
