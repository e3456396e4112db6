"""What the computing replicas share: CPU threads, dynamic batching, a row to warm up with."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from emoray.audio.io import AUDIO_HZ
from emoray.stages.base import Row
from emoray_serving.config import BatchConfig


def limit_threads(threads: int) -> None:
    """Set the CPU threads of this replica's numerical libraries, including those that a stage loads later."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def set_batching(method: Any, config: BatchConfig) -> None:
    """Configure a method decorated with `serve.batch`; the decorator itself runs before there is a configuration."""
    method.set_max_batch_size(config.max_size)
    method.set_batch_wait_timeout_s(config.wait_s)


def warm_up_row() -> Row:
    """A second of noise with two words as its transcript, enough for every stage to load what it needs."""
    noise_S = np.random.default_rng(0).normal(scale=0.05, size=AUDIO_HZ).astype(np.float32)
    frames = 100
    words = [
        {"word": "warm", "start_s": 0.1, "end_s": 0.4, "emphasised": None},
        {"word": "up", "start_s": 0.5, "end_s": 0.8, "emphasised": None},
    ]
    return {
        "utterance_id": "warm-up",
        "speaker_id": None,
        "transcript": "warm up",
        "words": None,
        "waveform": noise_S,
        "prosody": {
            "f0_hz": np.full(frames, 120, np.float32),
            "energy_db": np.full(frames, -30, np.float32),
            "hop_s": 0.01,
        },
        "transcribe": {"text": "warm up", "words": words, "language": "en", "confidence": None, "times": "corpus"},
        # In place of what a language model would write: only the describer asks one.
        "semantics": {"text": "A warm-up.", "texts": None},
    }
