"""Data of the benchmarks: a synthetic corpus to annotate, and clips of mixed length cut from its voices."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from emoray.audio.io import AUDIO_HZ
from emoray.config import load
from emoray.lake.tables import Lake
from emoray.models.build import frontend
from emoray.schema import DIMENSIONS, GRANULARITIES
from emoray.stages.pipeline import conditions
from emoray.training.data.pack import column, pack_shard, seal, write_shard
from emoray_jobs.config import Config
from emoray_jobs.corpus import job as corpus

#: Lengths of the mixed clips, as in speech corpora: most last some seconds, few more than twenty. All fit into
#: Whisper's window.
MEDIAN_S, SPREAD, SHORTEST_S, LONGEST_S = 5.0, 0.6, 1.5, 28.0

#: Note of P5 and P6.
QUIET = "valid only from an idle machine: the contenders need both of two cores"


@dataclass(frozen=True)
class Scale:
    """Size of the measurements.

    Attributes:
        pairs: Counted rounds.
        clips: Utterances that P1 and P3 annotate.
        asr_clips: Clips that P2 transcribes.
        audio_clips: Files that P4 decodes.
        f0_clips: Of these, files whose pitch P4 measures.
        train_clips: Clips that P5 and P6 train on.
        train_epochs: Epochs of one run of P5 and P6.
        cores: Cores of every contender.
        show: Prints a line of progress.
    """

    pairs: int
    clips: int
    asr_clips: int
    audio_clips: int
    f0_clips: int
    train_clips: int
    train_epochs: int
    cores: int
    show: Callable[[str], None]


def synthetic(folder: Path, clips: int) -> list[str]:
    """Synthesise a corpus of about `clips` utterances in its own lake.

    Returns:
        Overrides of the configuration that name it.
    """
    speakers = {"train": max(1, clips // 20), "dev": 2, "gate": 2, "test": 2}
    overrides = [
        f"lake.root={folder / 'lake'}",
        "summary.track=false",
        f"corpus.synthetic.speakers={json.dumps(speakers)}",
        'corpus.synthetic.utterances_per_speaker={"train": 20, "dev": 6, "gate": 6, "test": 6}',
    ]
    corpus.build(load(Config, overrides=overrides, environ={}))
    return overrides


def training_set(folder: Path, clips: int, epochs: int) -> dict[str, Any]:
    """Pack clips of mixed length as `train` does, in their own lake.

    Text vectors are random, and the labels are a linear function of the transcript's vector, so that there is something
    to learn.

    Returns:
        Task of a contender that trains: `overrides` of the configuration, and the training set's hash as `set`.
    """
    overrides = [
        f"lake.root={folder / 'lake'}",
        f"train.epochs={epochs}",
        "model.encoder.kind=logmel",  # an encoder that is trained, so that there is something to compute
        "model.encoder.speaker_norms=false",
        "train.augment.modality_dropout=0",
        "cluster.num_cpus=1",  # one core trains, one loads
        "cluster.object_store_mib=512",
        "launch.cpus_per_data_task=1",
    ]
    config = load(Config, overrides=overrides, environ={})
    lake, front, random = Lake(config.lake), frontend(config.model.encoder), np.random.default_rng(1)
    width, name, shards = config.model.text_width, "mixed", []
    condition = conditions(config.annotate)[0].name
    way_E3 = random.normal(scale=0.1 / np.sqrt(width), size=(width, len(DIMENSIONS)))
    rows = []
    for number, samples in enumerate(voices(folder, clips)):
        text_KE = random.normal(size=(len(GRANULARITIES), width)).astype(np.float32)
        label_3 = 0.5 + text_KE[GRANULARITIES.index("gs")] @ way_E3
        vectors = {column(name, condition): vector for name, vector in zip(GRANULARITIES, text_KE, strict=True)}
        labels = dict(zip(DIMENSIONS, label_3.tolist(), strict=True))
        known = {"utterance_id": f"m{number:05d}", "split": "train", "waveform": samples}
        rows.append(known | {column("usable", condition): True} | vectors | labels)
    for start in range(0, clips, config.launch.shard_rows):
        part = rows[start : start + config.launch.shard_rows]
        table = pack_shard(part, [condition], front, config.annotate.audio, width)
        shards.append(write_shard(lake, name, len(shards), table))
    counts = {"rows": clips, "left_out": 0}
    seal(lake, name, shards, conditions=[condition], frontend=front, text_width=width, counts=counts)
    return {"overrides": overrides, "set": name}


def voices(folder: Path, count: int) -> Iterator[npt.NDArray[np.float32]]:
    """Clips of mixed length: sentences of synthetic voices, one after the other, cut at a random length."""
    config = load(Config, overrides=synthetic(folder / "voices", 100), environ={})
    paths = Lake(config.lake).utterances(config.corpus.name)["audio_uri"].to_pylist()
    sentences = itertools.cycle([soundfile.read(path, dtype="float32")[0] for path in paths])
    lengths_s = np.random.default_rng(0).lognormal(np.log(MEDIAN_S), SPREAD, count).clip(SHORTEST_S, LONGEST_S)
    for length in np.round(lengths_s * AUDIO_HZ).astype(int):
        parts: list[npt.NDArray[np.float32]] = []
        while sum(map(len, parts)) < length:
            parts.append(next(sentences))
        yield np.concatenate(parts)[:length]
