"""Peer: a Hugging Face `pipeline` over a generator of clips, one process with all cores, results in a list.

As in its documentation for large inputs: a generator in, `batch_size` set, greedy.
"""

from __future__ import annotations

import torch
from clip import HZ, read
from protocol import serve, task
from transformers import pipeline

TASK = task()
torch.set_num_threads(TASK["cores"])
RECOGNISER = pipeline("automatic-speech-recognition", model=TASK["model"], device="cpu")


def run() -> dict[str, str]:
    """Transcribe all clips."""
    clips = ({"raw": read(path), "sampling_rate": HZ} for path in TASK["clips"].values())
    options = {"language": "en", "task": "transcribe", "num_beams": 1}
    outputs = RECOGNISER(clips, batch_size=TASK["batch"], generate_kwargs=options)
    return {name: output["text"].strip() for name, output in zip(TASK["clips"], outputs, strict=True)}


serve(run)
