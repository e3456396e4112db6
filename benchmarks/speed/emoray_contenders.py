"""emoray's contenders, each in its own process: `python -m benchmarks.speed.emoray_contenders TASK.json`.

They follow the protocol of benchmarks/speed/peers/protocol.py.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.quality.annotate import annotate as bare_loop
from benchmarks.speed.peers.protocol import serve, task
from benchmarks.speed.training_contenders import from_lake, in_memory

from emoray.audio.io import AudioConfig, decode
from emoray.audio.prosody import ProsodyConfig, measure
from emoray.config import load
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray_jobs.annotate import job as annotate
from emoray_jobs.cluster.session import session
from emoray_jobs.config import Config
from emoray_jobs.pipeline import pending
from emoray_jobs.pipeline.executor import StageExecutor


def configured(given: dict[str, Any]) -> Config:
    """The configuration that a task describes."""
    return load(Config, overrides=given["overrides"], environ={})


def forget(config: Config) -> None:
    """Remove all annotations, so that the next run starts from scratch."""
    lake = Lake(config.lake)
    for table in ("annotations", "norms"):
        shutil.rmtree(lake.path(table), ignore_errors=True)


def on_ray(given: dict[str, Any]) -> None:
    """Annotate as users run it, on a Ray that is already running."""
    config = configured(given)
    with session(config.cluster, config.lake):
        serve(lambda: {"complete": annotate.run(config).counts.complete}, lambda: forget(config))


def bare(given: dict[str, Any]) -> None:
    """The same stages called in a loop, one process per core."""
    config = configured(given)

    def work() -> dict[str, int]:
        prints, _ = bare_loop(config.lake, config.corpus.name, config.annotate, given["cores"], lambda *_: None)
        outcomes = Lake(config.lake).stage_outcomes("embed_semantics", prints["embed_semantics"], ["error"])
        assert outcomes is not None
        return {"complete": outcomes.collect().height}

    serve(work, lambda: forget(config))


def transcribe(given: dict[str, Any]) -> None:
    """Annotate's executor with two of its stages, decode and transcribe."""
    config = configured(given)
    lake = Lake(config.lake)
    stages = [stage for stage in pipeline.audio_stages(config.annotate) if stage.name in ("decode", "transcribe")]

    def work() -> None:
        with contextlib.ExitStack() as stack:
            prints = pipeline.fingerprints(config.annotate, None)
            utterances = lake.utterances_dataset(config.corpus.name)
            rows = pending.utterance_lengths(utterances.to_table())
            executor = StageExecutor(lake, config.cluster, config.annotate, utterances, rows, stack, stack)
            executor.run_until_complete(stages, prints, "transcribing")

    def found() -> dict[str, str]:
        outcomes = lake.stage_outcomes("transcribe", pipeline.fingerprints(config.annotate, None)["transcribe"])
        rows = outcomes.collect().to_dicts() if outcomes is not None else []
        return {row["utterance_id"]: row["value"]["text"] for row in rows if row["value"] is not None}

    with session(config.cluster, config.lake):
        serve(work, lambda: forget(config), found)


def audio(given: dict[str, Any]) -> None:
    """Decode and resample, or F0 and energy of the result; one thread."""
    limits = AudioConfig(min_duration_s=0.1, max_duration_s=60, silence_dbfs=-70)
    prosody = ProsodyConfig(**{name: given[name] for name in ProsodyConfig.model_fields})
    samples = [decode(path, limits).samples for path in given["clips"]]
    latest: list[np.ndarray] = []

    def decoding() -> None:
        latest[:] = [decode(path, limits).samples for path in given["clips"]]

    def measuring() -> None:
        latest[:] = [measure(one, prosody).f0_hz for one in samples]

    def found() -> str:
        np.savez(given["out"], *latest)
        return str(given["out"])

    serve({"decode": decoding, "f0": measuring}[given["what"]], found=found, clock=time.process_time)


WHAT: dict[str, Callable[[dict[str, Any]], None]] = {
    "annotate": on_ray,
    "bare loop": bare,
    "transcribe": transcribe,
    "decode": audio,
    "f0": audio,
    "train": from_lake,
    "train in memory": in_memory,
}


if __name__ == "__main__":
    TASK = task()
    WHAT[TASK["what"]](TASK)
