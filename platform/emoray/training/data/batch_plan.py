"""The batch plan: the utterances of each step, fixed before training and independent of the number of workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

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
#: For batches of whole dialogues: also how many clips each dialogue has, in the order of the clips.
DIALOGUE_PLAN = PLAN.append(pa.field("dialogue_clips", pa.list_(pa.int32()), nullable=False))

Sized = TypeVar("Sized", bound=Sequence[Any] | np.ndarray)
Unit = TypeVar("Unit")


def make_plan(
    utterance_ids: Sequence[str],
    durations_s: Sequence[float],
    config: PlanConfig,
    *,
    epochs: int,
    seed: int,
    crop_s: float | None = None,
    dialogues: Sequence[int] | np.ndarray | None = None,
) -> pa.Table:
    """Plan the global batches of a run.

    Each epoch shuffles the utterances within buckets of similar length, cuts each bucket into batches of nearly equal
    size and shuffles the batches. Every utterance occurs once per epoch; no batch is a small remainder, since CCC over
    a few clips is meaningless.

    Args:
        utterance_ids: Clips to train on; their order does not matter.
        crop_s: Longest part of a clip in training.
        dialogues: Number of each clip's dialogue, for models that read dialogues: batches, limits and buckets are then
            of whole dialogues instead of clips.

    Returns:
        A table with schema `PLAN`, or `DIALOGUE_PLAN`; steps count through all epochs from 0; `seconds` excludes
        padding.

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
    members = None if dialogues is None else group_positions(np.asarray(dialogues)[order])
    if members is not None:
        seconds = np.array([seconds[clips].sum() for clips in members])
    by_length = np.argsort(seconds, kind="stable")
    buckets = np.array_split(by_length, min(config.buckets, len(by_length)))
    rows: list[dict[str, object]] = []
    for epoch in range(epochs):
        random = generator(seed, "plan", epoch)
        batches = [batch for bucket in buckets for batch in _cut(random.permutation(bucket), seconds, config)]
        for index in random.permutation(len(batches)):
            batch = batches[index]
            row: dict[str, object] = {"epoch": epoch, "step": len(rows), "seconds": float(seconds[batch].sum())}
            if members is None:
                row["utterance_ids"] = ids[batch].tolist()
            else:
                clips = [members[unit] for unit in batch]
                row |= {"utterance_ids": ids[np.concatenate(clips)].tolist(), "dialogue_clips": list(map(len, clips))}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=PLAN if members is None else DIALOGUE_PLAN)


def _cut(bucket: np.ndarray, seconds: np.ndarray, config: PlanConfig) -> list[np.ndarray]:
    fits = int(config.batch_seconds // max(float(seconds[bucket].max()), 1e-9))
    most = max(1, min(config.batch_size, fits))
    return np.array_split(bucket, -(-len(bucket) // most))


def group_positions(numbers_N: np.ndarray) -> list[np.ndarray]:
    """Positions of equal numbers: each group ascending, groups by their first position, whatever the numbers."""
    if not len(numbers_N):
        return []
    order = np.argsort(numbers_N, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(numbers_N[order])) + 1)
    return sorted(groups, key=lambda group: int(group[0]))


def plan_units(row: Mapping[str, Any]) -> list[list[str]]:
    """The units of a row of a plan that a forward pass must not split: the clips of each dialogue, or single clips."""
    ids, sizes = row["utterance_ids"], row.get("dialogue_clips")
    if sizes is None:
        return [[name] for name in ids]
    ends = np.cumsum(sizes)
    return [ids[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def group_up_to(units: Iterable[Sized], clips: int) -> Iterator[list[Sized]]:
    """Groups of neighbouring units with up to so many clips; a larger unit is alone."""
    group: list[Sized] = []
    for unit in units:
        if group and sum(map(len, group)) + len(unit) > clips:
            yield group
            group = []
        group.append(unit)
    if group:
        yield group


def worker_slice(units: Sequence[Unit], rank: int, world: int) -> tuple[int, list[Unit]]:
    """A worker's contiguous part of the units (clips or dialogues) of a global batch.

    Returns:
        Index of the part's first unit, and its units; none if there are more workers than units.
    """
    size, extra = divmod(len(units), world)
    start = rank * size + min(rank, extra)
    return start, list(units[start : start + size + (rank < extra)])
