"""The batch plan: which utterances each step sees, fixed before training and independent of the number of workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from emoray.errors import TrainingError
from emoray.training.config import PlanConfig
from emoray.training.seeds import generator

PLAN = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("utterance_ids", pa.list_(pa.string()), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


def make_plan(
    utterance_ids: Sequence[str],
    durations_s: Sequence[float],
    config: PlanConfig,
    *,
    epochs: int,
    seed: int,
    crop_s: float | None = None,
) -> pa.Table:
    """Plan the global batches of a run.

    Each epoch shuffles the utterances within buckets of similar length, cuts each bucket into batches of nearly equal
    size and shuffles the batches. Every utterance comes once per epoch; no batch is a small remainder, since CCC over a
    few clips says little.

    Args:
        utterance_ids: Clips to train on; their order does not matter.
        durations_s: Their durations.
        config: Caps and buckets.
        epochs: How many epochs to plan.
        seed: Seed of the shuffles.
        crop_s: Longest stretch that training hears of a clip.

    Returns:
        A table with schema `PLAN`; steps count through all epochs from 0; `seconds` leaves padding out.

    Raises:
        TrainingError: There is nothing to train on.
    """
    if len(utterance_ids) == 0:
        raise TrainingError(
            "no utterances to train on", remedy="Check the splits and labels of the corpus", kind="empty_split"
        )
    order = np.argsort(np.asarray(utterance_ids, dtype=object), kind="stable")
    ids = np.asarray(utterance_ids, dtype=object)[order]
    seconds = np.asarray(durations_s, dtype=np.float64)[order]
    if crop_s is not None:
        seconds = np.minimum(seconds, crop_s)
    by_length = np.argsort(seconds, kind="stable")
    buckets = np.array_split(by_length, min(config.buckets, len(ids)))
    rows: list[dict[str, object]] = []
    for epoch in range(epochs):
        random = generator(seed, "plan", epoch)
        batches = [batch for bucket in buckets for batch in _cut(random.permutation(bucket), seconds, config)]
        for index in random.permutation(len(batches)):
            batch = batches[index]
            rows.append(
                {
                    "epoch": epoch,
                    "step": len(rows),
                    "utterance_ids": ids[batch].tolist(),
                    "seconds": float(seconds[batch].sum()),
                }
            )
    return pa.Table.from_pylist(rows, schema=PLAN)


def _cut(bucket: np.ndarray, seconds: np.ndarray, config: PlanConfig) -> list[np.ndarray]:
    fits = int(config.batch_seconds // max(float(seconds[bucket].max()), 1e-9))
    most = max(1, min(config.batch_size, fits))
    return np.array_split(bucket, -(-len(bucket) // most))


def worker_slice(utterance_ids: Sequence[str], rank: int, world: int) -> tuple[int, list[str]]:
    """A worker's contiguous share of a global batch.

    Returns:
        The share's position in the batch and its ids; empty where there are more workers than clips.
    """
    share, extra = divmod(len(utterance_ids), world)
    start = rank * share + min(rank, extra)
    return start, list(utterance_ids[start : start + share + (rank < extra)])
