"""P6: training samples/s at mixed lengths, against Hugging Face's Trainer with fixed padding and the batch's longest.

Ours is the side of P5: batches from length buckets, capped by padded seconds. The peers train the same model from the
same weights on the same features, which they hold in memory, with as many clips in a batch, the same crop length,
optimiser and schedule; `group by length` is the Trainer's own remedy. All sides compute in one thread and have one more
process that makes batches. As steps see other clips together, what is compared is the outputs of the fresh models and
the loss after as many epochs. The clock starts with the first batch at hand. Run it on a quiet machine: the sides want
both of two cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
from benchmarks.speed import environments
from benchmarks.speed.datasets import QUIET, Scale, training_set
from benchmarks.speed.measure import OWN, Contender, Measurement, Reading, against, rounds
from benchmarks.speed.training_contenders import Material

#: Peer → how it makes its batches.
PEERS = {"fixed padding": "fixed", "longest": "longest", "group by length": "group_by_length"}
#: Clips whose outputs are compared.
PROBE = 64


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """Ours and the Trainer's three ways in turn; without `accelerate` nothing is measured, and the reason printed."""
    task = training_set(folder, scale.train_clips, scale.train_epochs)
    material = Material(task)
    config, training = material.config, material.training_set
    short = zip(material.ids, training.durations_s(material.ids), strict=True)
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
        ours = stack.enter_context(Contender("emoray", OWN, {"what": "train", "probe": probe, **task}, folder))
        peers = [
            stack.enter_context(Contender(name, command, {**theirs, "batches": how}, folder))
            for name, how in PEERS.items()
        ]
        readings = rounds([ours, *peers], scale.pairs, scale.show)
    for peer in peers:
        readings[peer.name] = list(map(from_first_batch, readings[peer.name]))
    what = f"samples/s over the Trainer's with {{}}, {scale.train_epochs} epochs of {scale.train_clips} mixed clips"
    return [
        against(
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
    """A Trainer's reading without the start of its loader: our clock, too, starts with the first batch at hand."""
    return dataclasses.replace(reading, seconds=reading.results["seconds"])


def compared(ours: Reading, peer: Reading) -> str:
    """How far the sides' outputs are apart, in words."""
    before = [np.array(side.results["before"]["predictions"]) for side in (ours, peer)]
    steps = len(ours.results["losses"])
    losses = [side.results["after"]["loss"] for side in (ours, peer)]
    return (
        f"outputs of the fresh models differ by at most {np.abs(before[0] - before[1]).max():.1e}; "
        f"loss on {len(before[0])} clips {ours.results['before']['loss']:.3f} before, after: ours {losses[0]:.3f}, "
        f"Trainer {losses[1]:.3f}; Trainer's steps: {peer.results['steps']}, ours: {steps}; {QUIET}"
    )
