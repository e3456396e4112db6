"""Peer: a plain Ray Data pipeline in the stages of Ray's own tutorial "Audio batch inference" (e2e-audio).

Items → map: decode and resample → an actor with the feature extractor → actors with the model → an actor with the
tokenizer → Parquet. The tutorial's pools reserve a core or a GPU per actor, which would leave no core for the tasks on
two cores; the shares here let one model run per core.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
from clip import HZ, read
from protocol import serve, task
from ray._private import ray_constants

TASK = task()


def decode(row: dict[str, Any]) -> dict[str, Any]:
    """One clip's samples."""
    return {"id": row["id"], "samples": read(row["path"])}


class Features:
    """Log-mel spectrograms."""

    def __init__(self, model: str) -> None:
        from transformers import WhisperFeatureExtractor

        self.extract = WhisperFeatureExtractor.from_pretrained(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """One batch."""
        found = self.extract(list(batch["samples"]), sampling_rate=HZ, return_tensors="np")
        return {"id": batch["id"], "features": found.input_features}


class Transcriber:
    """Token numbers."""

    def __init__(self, model: str) -> None:
        from transformers import WhisperForConditionalGeneration

        self.model = WhisperForConditionalGeneration.from_pretrained(model).eval()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """One batch."""
        import torch

        with torch.inference_mode():
            tokens = self.model.generate(
                torch.from_numpy(np.array(batch["features"])), language="en", task="transcribe", num_beams=1
            )
        return {"id": batch["id"], "tokens": tokens.numpy()}


class Words:
    """Texts."""

    def __init__(self, model: str) -> None:
        from transformers import WhisperTokenizer

        self.tokenizer = WhisperTokenizer.from_pretrained(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """One batch."""
        texts = self.tokenizer.batch_decode(batch["tokens"], skip_special_tokens=True)
        return {"id": batch["id"], "text": [text.strip() for text in texts]}


def run() -> None:
    """The whole pipeline, to Parquet."""
    model, size, cores = (TASK["model"],), TASK["batch"], TASK["cores"]
    items = [{"id": name, "path": path} for name, path in TASK["clips"].items()]
    (
        ray.data.from_items(items, override_num_blocks=max(2 * cores, len(items) // size))
        .map(decode, num_cpus=0.5)
        .map_batches(Features, fn_constructor_args=model, batch_size=size, concurrency=1, num_cpus=0.25)
        .map_batches(Transcriber, fn_constructor_args=model, batch_size=size, concurrency=cores, num_cpus=0.5)
        .map_batches(Words, fn_constructor_args=model, batch_size=size, concurrency=1, num_cpus=0.25)
        .write_parquet(TASK["out"])
    )


def found() -> dict[str, str]:
    """The texts that were written."""
    tables = [pq.read_table(path) for path in glob.glob(f"{TASK['out']}/*.parquet")]
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}


if __name__ == "__main__":
    # A token for this run only: Ray would otherwise leave one in the user's home, which every later Ray requires.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # On Linux, Ray would listen on every interface (jobs/emoray_jobs/cluster/session.py has the same switches).
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(
        address="local",
        num_cpus=TASK["cores"],
        object_store_memory=TASK["object_store_bytes"],
        include_dashboard=False,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    serve(run, lambda: shutil.rmtree(TASK["out"], ignore_errors=True), found)
