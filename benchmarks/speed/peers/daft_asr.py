"""Peer: Daft on its native runner. A class with the model, one instance and process per core.

As in its documentation: `@daft.func` for the clip, `@daft.cls` with a batch method for the model, Parquet out.
"""

from __future__ import annotations

import glob
import shutil

import daft
import numpy as np
import pyarrow.parquet as pq
from clip import HZ, read
from daft import DataType, Series, col
from protocol import serve, task

TASK = task()


@daft.func(return_dtype=DataType.list(DataType.float32()))
def decode(path: str) -> np.ndarray:
    """One clip's samples."""
    return read(path)


@daft.cls(max_concurrency=TASK["cores"], use_process=True)
class Transcriber:
    """The model, with its feature extractor and tokenizer."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        torch.set_num_threads(1)
        self.processor = WhisperProcessor.from_pretrained(model)
        self.model = WhisperForConditionalGeneration.from_pretrained(model).eval()

    @daft.method.batch(return_dtype=DataType.string(), batch_size=TASK["batch"])
    def transcribe(self, samples: Series) -> list[str]:
        """Texts of a batch."""
        import torch

        clips = [clip.values.to_numpy() for clip in samples.to_arrow()]
        features = self.processor.feature_extractor(clips, sampling_rate=HZ, return_tensors="pt").input_features
        with torch.inference_mode():
            tokens = self.model.generate(features, language="en", task="transcribe", num_beams=1)
        return [text.strip() for text in self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def run() -> None:
    """The whole pipeline, to Parquet."""
    clips = {"id": list(TASK["clips"]), "path": list(TASK["clips"].values())}
    frame = daft.from_pydict(clips).into_batches(TASK["batch"]).with_column("samples", decode(col("path")))
    texts = Transcriber(TASK["model"]).transcribe(col("samples"))
    frame.select(col("id"), texts.alias("text")).write_parquet(TASK["out"])


def found() -> dict[str, str]:
    """The texts that were written."""
    tables = [pq.read_table(path) for path in glob.glob(f"{TASK['out']}/*.parquet")]
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}


if __name__ == "__main__":
    serve(run, lambda: shutil.rmtree(TASK["out"], ignore_errors=True), found)
