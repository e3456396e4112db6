"""From the batch plan to what one worker trains on, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from emoray.models.batch import Batch
from emoray.training.batch_plan import passes, plan_units, worker_slice
from emoray.training.config import TrainConfig
from emoray.training.training_set import TrainingSet


@dataclass(frozen=True)
class WorkerBatch:
    """A worker's share of a global batch.

    Attributes:
        epoch: Epoch of the step.
        step: Global step.
        clips: Clips of the whole global batch.
        start: Position of the share's first clip in the global batch.
        batches: Micro-batches; none where there are more workers than clips.
    """

    epoch: int
    step: int
    clips: int
    start: int
    batches: tuple[Batch, ...]


#: Gives the shares of a worker from a plan's row `first` on.
Loader = Callable[[pa.Table, int], Iterator[WorkerBatch]]


def make_share(
    training_set: TrainingSet, row: Mapping[str, Any], config: TrainConfig, rank: int, world: int
) -> WorkerBatch:
    """Collate a worker's share of one row of the plan, in micro-batches that part no dialogue of a plan of dialogues.

    Crops, masks and dropped text vectors are drawn from (seed, step, utterance): they do not depend on the worker.
    """
    units = plan_units(row)
    first, mine = worker_slice(units, rank, world)
    seed = (config.seed, "augment", row["step"])
    batches = tuple(
        training_set.collate(list(itertools.chain(*part)), config.augment, seed)
        for part in passes(mine, config.micro_batch_size)
    )
    return WorkerBatch(row["epoch"], row["step"], len(row["utterance_ids"]), sum(map(len, units[:first])), batches)


class LocalLoader:
    """Reads a worker's shares from a memory-mapped training set, one step ahead of the training loop.

    Args:
        training_set: Where the clips are.
        config: Seed, augmentation and micro-batch size.
        rank: This worker.
        world: How many workers there are.
    """

    def __init__(self, training_set: TrainingSet, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        self._training_set = training_set
        self._config = config
        self._rank = rank
        self._world = world

    def __call__(self, plan: pa.Table, first: int) -> Iterator[WorkerBatch]:
        """Shares from row `first` of the plan on."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as ahead:
            waiting = None
            for index in range(first, plan.num_rows):
                row = plan.slice(index, 1).to_pylist()[0]
                coming = ahead.submit(make_share, self._training_set, row, self._config, self._rank, self._world)
                if waiting is not None:
                    yield waiting.result()
                waiting = coming
            if waiting is not None:
                yield waiting.result()
