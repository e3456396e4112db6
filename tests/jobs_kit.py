"""A tiny labelled corpus and small models for the tests of the jobs; importable by the processes that they spawn."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import numpy as np
from mlflow import MlflowClient
from scoring_kit import speech, wav_bytes

from emoray.config import load
from emoray.lake.tables import Lake
from emoray.registry.tracking import Tracking, connect
from emoray.schema import utterances_table
from emoray.training.checkpoint import Checkpoint
from emoray_jobs.config import Config
from emoray_jobs.train.worker import train_on_worker

CORPUS = "tiny"
SENTENCES = {
    0.9: "what a lovely and wonderful evening this is",
    0.5: "the train to the city leaves at nine",
    0.1: "this awful dinner was a terrible mistake",
}
#: Speakers and clips of each.
SPLITS = {"train": (6, 9), "dev": (3, 6), "gate": (4, 6), "test": (3, 6)}

SMALL = (
    f"corpus.name={CORPUS}",
    "corpus.kind=manifest",
    "cluster.num_cpus=2",
    "cluster.object_store_mib=256",
    # One condition: what several do is a matter of test_conditions.py and of the demo's test.
    "annotate.norms.enrol_clips=0",
    "annotate.conditions.enrol_clips=[]",
    "model.width=16",
    "model.hidden=16",
    "model.attention=8",
    "model.dropout=0.0",
    "model.encoder.kind=logmel",  # nothing is computed for a frame
    "model.encoder.speaker_norms=false",
    "model.encoder.logmel.mels=16",
    "model.encoder.logmel.width=16",
    "model.encoder.logmel.layers=1",
    "model.encoder.logmel.heads=2",
    "model.encoder.logmel.dropout=0.0",
    "model.fusion.moe.experts=2",
    "model.fusion.moe.inner=8",
    "launch.workers=0",
    "train.epochs=4",
    "launch.shard_rows=32",
    "train.augment.modality_dropout=0.1",
    "train.plan.batch_size=18",
    "train.plan.buckets=2",
    "train.optimizer.lr=0.005",
    "launch.checkpoint_steps=2",
    "promote.latency_clips=2",
    "promote.min_group_clips=5",
    "promote.clean_process=false",
)


def config(lake: os.PathLike[str] | str, *overrides: str) -> Config:
    """The laptop preset with a tiny corpus and small models, training in process."""
    return load(Config, overrides=[f"lake.root={lake}", *SMALL, *overrides], environ={})


def write_corpus(lake: Lake, *, labelled: bool = True) -> None:
    """Buzzing voices: loudness gives the arousal, the sentence the valence, both together the dominance."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    speaker = 0
    for split, (speakers, clips) in SPLITS.items():
        for _ in range(speakers):
            speaker += 1
            pitch_hz = rng.uniform(100, 240)
            for clip in range(clips):
                valence = list(SENTENCES)[clip % len(SENTENCES)]
                arousal, seconds = rng.uniform(0.1, 0.9), rng.uniform(1.0, 1.6)
                name = f"s{speaker:02d}-{clip}"
                samples = speech(seconds, pitch_hz, seed=len(rows)) * (0.2 + 0.8 * arousal)
                uri = lake.write_bytes(wav_bytes(samples), "audio", CORPUS, f"{name}.wav")
                labels = {"valence": valence, "arousal": arousal, "dominance": (valence + arousal) / 2}
                rows.append(
                    {
                        "utterance_id": name,
                        "corpus": CORPUS,
                        "audio_uri": uri,
                        "duration_s": seconds,
                        "speaker_id": f"s{speaker:02d}",
                        "gender": "Female" if speaker % 2 else "Male",
                        "language": "en",
                        "split": split,
                        "transcript": SENTENCES[valence],
                        "words": _words(SENTENCES[valence], seconds),
                        **({**labels, "scale_min": 1.0, "scale_max": 7.0} if labelled else {}),
                    }
                )
    lake.write_utterances(CORPUS, utterances_table(rows))


def _words(sentence: str, seconds: float) -> list[dict[str, Any]]:
    words = sentence.split()
    step = seconds / len(words)
    return [
        {"word": word, "start_s": place * step, "end_s": (place + 0.9) * step, "emphasised": None}
        for place, word in enumerate(words)
    ]


def store(config: Config) -> Tracking:
    return connect(config.tracking, Lake(config.lake))


def logged(client: MlflowClient, run_id: str) -> dict[tuple[str, int], float]:
    """All points of a run's metrics; fails if a (key, step) was logged twice."""
    points = [
        (key, point.step, point.value)
        for key in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, key)
    ]
    twice = [pair for pair, count in Counter((key, step) for key, step, _ in points).items() if count > 1]
    assert not twice, f"logged twice: {twice}"
    return {(key, step): value for key, step, value in points}


def runs(tracking: Tracking) -> list[str]:
    """Ids of all runs."""
    return [run.info.run_id for run in tracking.client.search_runs([tracking.experiment_id])]


def train_and_die_once(config: dict[str, Any]) -> None:
    """A training worker that is killed once: after the journal entry of step 6, before the checkpoint it belongs to."""
    push = Checkpoint.push

    def push_or_die(checkpoint: Checkpoint, lake: Lake, run: str) -> str:
        if checkpoint.step == 6 and not lake.exists("died"):
            lake.write_bytes(b"", "died")
            os.kill(os.getpid(), signal.SIGKILL)
        return push(checkpoint, lake, run)

    Checkpoint.push = push_or_die  # type: ignore[method-assign]
    train_on_worker(config)
