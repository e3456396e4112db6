"""P5: training steps/s with data from the lake, compared with a bare PyTorch loop on the same tensors in memory.

Ours is what a Ray Train worker runs: the packed training set on the lake, the batch plan, Ray tasks that collate ahead,
the step. One core trains, one loads; the bare loop has one core and nothing to load. Both take the same steps from the
same weights, and their losses are compared. Run it on an idle machine: it measures the use of the second core.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.datasets import QUIET, Scale, training_set
from benchmarks.speed.measure import EMORAY, Contender, Measurement, rounds, speed_ratio


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """The step rate, and the share of our time that training waited for data."""
    task = training_set(folder, scale.train_clips, scale.train_epochs)
    with (
        Contender("train", EMORAY, {"what": "train", **task}, folder) as ours,
        Contender("bare loop", EMORAY, {"what": "train in memory", **task}, folder) as bare,
    ):
        readings = rounds([ours, bare], scale.pairs, scale.show)
    losses, other = (readings[contender.name][-1].results["losses"] for contender in (ours, bare))
    apart = max(abs(one - two) for one, two in zip(losses, other, strict=True))
    what = f"steps/s from the lake over a bare loop's in memory, {len(losses)} steps of {scale.train_clips} mixed clips"
    note = f"losses of the steps differ by at most {apart:.1e}, the last is {losses[-1]:.3f}; {QUIET}"
    taken = readings[ours.name]
    wait = Measurement(
        name="train_data_wait",
        what="share of training's time in which it waited for data",
        ratios=[reading.results["waited_s"] / reading.seconds for reading in taken],
        seconds={ours.name: [reading.seconds for reading in taken]},
        peak_bytes={ours.name: max(reading.peak_bytes for reading in taken)},
    )
    return [speed_ratio("train_vs_bare_loop", what, readings, ours.name, bare.name, note), wait]
