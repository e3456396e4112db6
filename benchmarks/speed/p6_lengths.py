"""P6: training samples/s at mixed lengths, compared with Hugging Face's Trainer.

Ours is the contender of P5: batches from length buckets, capped by padded seconds. The peers pad to a fixed length, pad
to the batch's longest clip, or group clips by length. They train the same model from the same weights on the same
features, which they hold in memory, with as many clips in a batch, the same crop length, optimiser and schedule. All
contenders compute in one thread and have one more process that makes batches. The batches hold different clips, so the
outputs of the fresh models and the loss after the same number of epochs are compared. The clock starts when the first
batch is ready. Run it on an idle machine: the contenders need both of two cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
from benchmarks.speed import environments
from benchmarks.speed.datasets import QUIET, Scale, training_set
from benchmarks.speed.measure import EMORAY, Contender, Measurement, Reading, rounds, speed_ratio
from benchmarks.speed.training_contenders import TrainingTask

#: Peer → how it makes its batches.
PEERS = {"fixed padding": "fixed", "longest": "longest", "group by length": "group_by_length"}
#: Clips whose outputs are compared.
PROBE = 64


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """Ours and the Trainer's three ways in turn; without `accelerate` the reason is printed and nothing measured."""
    task = training_set(folder, scale.train_clips, scale.train_epochs)
    opened = TrainingTask(task)
    config, training = opened.config, opened.training_set
    short = zip(opened.ids, training.durations_s(opened.ids), strict=True)
    probe = [name for name, seconds in short if seconds <= (config.train.augment.crop_s or seconds)][:PROBE]
    try:
        python = str(environments.python("accelerate"))
    except environments.NotInstalledError as missing:
        scale.show(f"not measured: {missing}")
        return []
    theirs = {
        **task,
        "lake": config.lake.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "out": str(folder / "trainer"),
        "probe": probe,
    }
    command = (python, str(environments.script("hf_trainer.py")))
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Contender("emoray", EMORAY, {"what": "train", "probe": probe, **task}, folder))
        peers = [
            stack.enter_context(Contender(name, command, {**theirs, "batches": how}, folder))
            for name, how in PEERS.items()
        ]
        readings = rounds([ours, *peers], scale.pairs, scale.show)
    for peer in peers:
        readings[peer.name] = list(map(from_first_batch, readings[peer.name]))
    what = f"samples/s over the Trainer's with {{}}, {scale.train_epochs} epochs of {scale.train_clips} mixed clips"
    return [
        speed_ratio(
            f"train_vs_trainer_{PEERS[peer.name]}",
            what.format(peer.name),
            readings,
            ours.name,
            peer.name,
            compared(readings[ours.name][-1], readings[peer.name][-1]),
        )
        for peer in peers
    ]


def from_first_batch(reading: Reading) -> Reading:
    """A Trainer's reading without the start of its loader: our clock also starts when the first batch is ready."""
    return dataclasses.replace(reading, seconds=reading.results["seconds"])


def compared(ours: Reading, peer: Reading) -> str:
    """A sentence on how far the contenders' outputs differ."""
    before = [np.array(contender.results["before"]["predictions"]) for contender in (ours, peer)]
    steps = len(ours.results["losses"])
    losses = [contender.results["after"]["loss"] for contender in (ours, peer)]
    return (
        f"outputs of the fresh models differ by at most {np.abs(before[0] - before[1]).max():.1e}; "
        f"loss on {len(before[0])} clips {ours.results['before']['loss']:.3f} before, after: ours {losses[0]:.3f}, "
        f"Trainer {losses[1]:.3f}; Trainer's steps: {peer.results['steps']}, ours: {steps}; {QUIET}"
    )
