"""From the batch plan to one worker's batches, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from emoray.models.batch import Batch
from emoray.training.config import TrainConfig
from emoray.training.data.batch_plan import group_up_to, plan_units, worker_slice
from emoray.training.data.training_set import TrainingSet


@dataclass(frozen=True)
class WorkerBatch:
    """A worker's part of a global batch.

    Attributes:
        clips: Clips of the whole global batch.
        start: Position of the part's first clip in the global batch.
        batches: Micro-batches; none if there are more workers than clips.
    """

    epoch: int
    step: int
    clips: int
    start: int
    batches: tuple[Batch, ...]


#: Returns a worker's batches from a plan's row `first` on.
Loader = Callable[[pa.Table, int], Iterator[WorkerBatch]]


def make_worker_batch(
    training_set: TrainingSet, row: Mapping[str, Any], config: TrainConfig, rank: int, world: int
) -> WorkerBatch:
    """Collate a worker's part of one row of the plan, in micro-batches that split no dialogue of a plan of dialogues.

    Crops, masks and dropped text vectors depend on (seed, step, utterance), and not on the worker.
    """
    units = plan_units(row)
    first, mine = worker_slice(units, rank, world)
    seed = (config.seed, "augment", row["step"])
    batches = tuple(
        training_set.collate(list(itertools.chain(*part)), config.augment, seed)
        for part in group_up_to(mine, config.micro_batch_size)
    )
    return WorkerBatch(row["epoch"], row["step"], len(row["utterance_ids"]), sum(map(len, units[:first])), batches)


class LocalLoader:
    """Reads a worker's batches from a memory-mapped training set, one step ahead of the training loop."""

    def __init__(self, training_set: TrainingSet, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        self._training_set = training_set
        self._config = config
        self._rank = rank
        self._world = world

    def __call__(self, plan: pa.Table, first: int) -> Iterator[WorkerBatch]:
        """Batches from row `first` of the plan on."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as ahead:
            previous = None
            for index in range(first, plan.num_rows):
                row = plan.slice(index, 1).to_pylist()[0]
                own = (row, self._config, self._rank, self._world)
                current = ahead.submit(make_worker_batch, self._training_set, *own)
                if previous is not None:
                    yield previous.result()
                previous = current
            if previous is not None:
                yield previous.result()
