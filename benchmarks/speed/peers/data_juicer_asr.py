"""Peer: Data-Juicer, with our operator, since it has none for Whisper.

Written as in its developer guide: a batched `Mapper`, one process per core, each with its copy of the model; the
result is exported as JSON lines.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import datasets
import torch
from clip import HZ, read
from data_juicer.core.data import NestedDataset
from data_juicer.ops.base_op import OPERATORS, Mapper
from protocol import serve, task

TASK = task()
OUT = Path(TASK["out"])


@functools.cache
def whisper(model: str) -> tuple[Any, Any]:
    """This process's copy of the model, and its processor."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    torch.set_num_threads(1)
    return WhisperForConditionalGeneration.from_pretrained(model).eval(), WhisperProcessor.from_pretrained(model)


@OPERATORS.register_module("whisper_mapper")
class WhisperMapper(Mapper):
    """Transcribe the clip that a sample names."""

    _batched_op = True

    def process_batched(self, samples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Texts of a batch."""
        model, processor = whisper(TASK["model"])
        clips = [read(path) for path in samples["path"]]
        features = processor.feature_extractor(clips, sampling_rate=HZ, return_tensors="pt").input_features
        with torch.inference_mode():
            tokens = model.generate(features, language="en", task="transcribe", num_beams=1)
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        samples["text"] = [text.strip() for text in texts]
        return samples


def run() -> None:
    """The whole pipeline, to JSON lines."""
    clips = {"id": list(TASK["clips"]), "path": list(TASK["clips"].values())}
    clips["text"] = [""] * len(clips["id"])
    operator = WhisperMapper(num_proc=TASK["cores"], batch_size=TASK["batch"], auto_op_parallelism=False)
    NestedDataset.from_dict(clips).process([operator], open_monitor=False).to_json(str(OUT))


def found() -> dict[str, str]:
    """The texts that were written."""
    lines = map(json.loads, OUT.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["text"] for line in lines}


if __name__ == "__main__":
    datasets.disable_caching()  # otherwise a second run finds the first one's results
    serve(run, lambda: OUT.unlink(missing_ok=True), found)
