"""Licensed corpora in small, with voices instead of noise, for tests of protocols; importable by their processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jobs_kit
import soundfile
from corpus_trees import HZ, iemocap_sessions, podcast_release, write_iemocap, write_msp_podcast
from scoring_kit import speech

from emoray.lake.tables import Lake
from emoray.training.checkpoint import Checkpoint
from emoray_jobs.config import Config
from emoray_jobs.corpus import job as corpus
from emoray_jobs.protocol import tune
from emoray_jobs.protocol.trial import Trial

FAST = ("model.name=acoustic", "train.epochs=2", "launch.checkpoint_steps=1", "train.plan.batch_size=4")
FAST = (*FAST, "train.plan.buckets=1", "evaluate.min_group_clips=4", "protocol.seeds=[0]")
WORK = tune._work


def voices(recordings: Path) -> None:
    """Put a voice into each recording of a tree: no two alike, the louder the later in their folder."""
    folders = sorted({path.parent for path in recordings.rglob("*.wav")})
    for number, folder in enumerate(folders):
        paths = sorted(folder.glob("[!.]*.wav"))
        for place, path in enumerate(paths):
            samples = speech(
                soundfile.info(path).duration,
                100 + 7 * (number % 5) + 15 * (place % 8),
                seed=len(paths) * number + place,
            )
            soundfile.write(path, samples * (0.2 + 0.8 * place / len(paths)), HZ, subtype="PCM_16")


def iemocap(folder: Path, *overrides: str, sessions: int = 3, turns: int = 4) -> Config:
    """IEMOCAP in the lake of a folder, and the configuration of its protocol."""
    if not (folder / "IEMOCAP_full_release").exists():
        voices(write_iemocap(folder, iemocap_sessions(sessions, turns=turns)))
    here = ("corpus.name=iemocap", "corpus.kind=iemocap", f"corpus.iemocap.path={folder / 'IEMOCAP_full_release'}")
    return built(jobs_kit.config(folder / "lake", *FAST, *here, *overrides))


def podcast(folder: Path, *overrides: str) -> Config:
    """MSP-Podcast in the lake of a folder, with a test set whose labels are hidden, and a configuration."""
    tree = write_msp_podcast(folder, podcast_release(turns=4), hidden=["MSP-PODCAST_test3_0001"])
    voices(tree)
    here = ("corpus.name=msp", "corpus.kind=msp_podcast", f"corpus.msp_podcast.path={tree}")
    return built(jobs_kit.config(folder / "lake", *FAST, *here, *overrides))


def built(config: Config) -> Config:
    corpus.build(config)
    return config


def break_off(lake: Lake, run: str) -> None:
    """Leave a finished trial as one whose machine failed: no outcome, a checkpoint that is cut short."""
    lake.fs.rm_file(lake.path("checkpoints", run, "test.json"))
    step = max(
        path.rsplit("/", 1)[-1]
        for path in lake.fs.ls(lake.path("checkpoints", run), detail=False)
        if path[-1].isdigit()
    )
    lake.write_bytes(b"cut", "checkpoints", run, step, "model.safetensors")


def work_and_die_once(config: dict[str, Any], trials: Sequence[Trial]) -> None:
    """A process of Tune's that is killed once: in fold 1, with the checkpoint of step 2 half written."""
    push = Checkpoint.push

    def push_or_die(checkpoint: Checkpoint, lake: Lake, run: str) -> str:
        if trials[config["number"]].fold == 1 and checkpoint.step == 2 and not lake.exists("died"):
            lake.write_bytes(b"", "died")
            os.kill(os.getpid(), signal.SIGKILL)
        return push(checkpoint, lake, run)

    Checkpoint.push = push_or_die  # type: ignore[method-assign]
    try:
        WORK(config, trials)
    finally:
        Checkpoint.push = push  # type: ignore[method-assign]
