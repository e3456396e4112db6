"""The data side of training: packing, and collating each worker's part of the batch plan, both with Ray tasks."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import ray
import safetensors.torch
import torch

from emoray.audio.io import AudioConfig
from emoray.errors import TransientError
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.batch import Batch
from emoray.models.frontend import Frontend
from emoray.stages.conditions import FittedCondition
from emoray.training.data.loader import WorkerBatch, make_worker_batch
from emoray.training.data.pack import pack_shard, seal, training_rows, write_shard
from emoray.training.data.training_set import TrainingSet
from emoray_jobs.progress import Advance
from emoray_jobs.train.run_spec import RunSpec

#: Shards that one task packs at most: it scans the stage tables once for all, with their text vectors in memory.
SHARDS_PER_TASK = 32
TENSORS = ("features_BTF", "lengths_B", "text_BKE", "present_BK", "target_B3", "label_B", "dialogue_B", "turn_B")
#: What a task gives per step: epoch, step, clips, start; of each micro-batch ids, and its tensors as safetensors.
Payload = tuple[int, int, int, int, list[tuple[tuple[str, ...], bytes]]]


def pack_with_ray(
    lake: LakeConfig,
    corpus: str,
    conditions: Sequence[FittedCondition],
    ids: Sequence[str],
    set_hash: str,
    *,
    frontend: Frontend,
    audio: AudioConfig,
    text_width: int,
    shard_rows: int,
    advance: Advance,
) -> None:
    """Pack a training set with Ray tasks and seal it; the bytes are those of `emoray.training.data.training_set.pack`.

    Args:
        ids: All utterances, sorted.
        set_hash: `training_set_hash` of all this.
        advance: Called with (utterances done, all).
    """
    numbers = range(-(-len(ids) // shard_rows))
    cores = int(ray.cluster_resources().get("CPU", 1))
    per_task = min(SHARDS_PER_TASK, max(1, -(-len(numbers) // (2 * cores))))
    task = ray.remote(_pack_shards).options(num_cpus=1, max_retries=3, retry_exceptions=[TransientError])
    running = []
    for first in range(0, len(numbers), per_task):
        part = list(ids[first * shard_rows : (first + per_task) * shard_rows])
        running.append(
            task.remote(lake, corpus, tuple(conditions), part, first, set_hash, frontend, audio, text_width, shard_rows)
        )
    shards: dict[int, str] = {}
    packed = seen = 0
    advance(0, len(ids))
    while running:
        ready, running = ray.wait(running)
        for written in ray.get(ready):
            for number, name, rows, rows_in in written:
                shards[number] = name
                packed, seen = packed + rows, seen + rows_in
        advance(seen, len(ids))
    store = Lake(lake)
    counts = {"rows": packed, "left_out": len(ids) - packed}
    seal(
        store,
        set_hash,
        [shards[number] for number in sorted(shards)],
        conditions=[one.name for one in conditions],
        frontend=frontend,
        text_width=text_width,
        counts=counts,
    )


def _pack_shards(
    lake: LakeConfig,
    corpus: str,
    conditions: tuple[FittedCondition, ...],
    ids: list[str],
    first: int,
    set_hash: str,
    frontend: Frontend,
    audio: AudioConfig,
    text_width: int,
    shard_rows: int,
) -> list[tuple[int, str, int, int]]:
    """Pack neighbouring shards; returns number, file name, rows packed and rows seen of each."""
    store = Lake(lake)
    rows, names = training_rows(store, corpus, conditions, ids), [one.name for one in conditions]
    written = []
    for start in range(0, rows.height, shard_rows):
        part = rows.slice(start, shard_rows)
        table = pack_shard(part.to_dicts(), names, frontend, audio, text_width, lake.storage_options or None)
        number = first + start // shard_rows
        written.append((number, write_shard(store, set_hash, number, table), table.num_rows, part.height))
    return written


class RayBatchLoader:
    """A worker's shares of the batch plan, collated ahead of it by Ray tasks anywhere in the cluster, in order.

    The shares depend on (plan, rank, world) alone, and reading can begin at any step. Why not Ray Data: 0008.
    """

    def __init__(self, assignment: RunSpec, rank: int, world: int) -> None:
        self._assignment, self._rank, self._world = assignment, rank, world

    def __call__(self, plan: pa.Table, first: int) -> Iterator[WorkerBatch]:
        """Shares from row `first` of the plan on."""
        rows, launch = plan.slice(first).drop_columns(["seconds"]), self._assignment.launch
        # SPREAD: also outside the worker's own placement group. A task whose node dies is run again.
        collate = ray.remote(_collate).options(
            num_cpus=launch.cpus_per_data_task, scheduling_strategy="SPREAD", max_retries=3
        )
        assignment = ray.put(self._assignment)
        tasks = (
            collate.remote(assignment, rows.slice(start, launch.steps_per_task), self._rank, self._world)
            for start in range(0, rows.num_rows, launch.steps_per_task)
        )
        ahead = collections.deque(itertools.islice(tasks, launch.tasks_ahead))
        while ahead:
            payloads = ray.get(ahead.popleft())
            ahead.extend(itertools.islice(tasks, 1))
            yield from map(_to_share, payloads)


def _collate(assignment: RunSpec, rows: pa.Table, rank: int, world: int) -> list[Payload]:
    """The shares of one rank of some rows of the plan; runs in a Ray task."""
    config, classes = assignment.train, tuple(assignment.model.classes)
    training_set = _open(
        assignment.lake.model_dump_json(), assignment.training_set, assignment.launch.cache_dir, classes
    )
    shares = (make_worker_batch(training_set, row, config, rank, world) for row in rows.to_pylist())
    return [_to_payload(share) for share in shares]


@functools.lru_cache(maxsize=2)
def _open(lake: str, set_hash: str, cache_dir: str | None, classes: tuple[str, ...]) -> TrainingSet:
    """The training set, mapped once per process."""
    return TrainingSet.open(Lake(LakeConfig.model_validate_json(lake)), set_hash, cache_dir, classes)


def _to_payload(share: WorkerBatch) -> Payload:
    batches = [(batch.utterance_ids, _to_bytes(batch)) for batch in share.batches]
    return share.epoch, share.step, share.clips, share.start, batches


def _to_bytes(batch: Batch) -> bytes:
    return safetensors.torch.save({name: getattr(batch, name).contiguous() for name in TENSORS})


def _to_share(payload: Payload) -> WorkerBatch:
    epoch, step, clips, start, batches = payload
    tensors: list[dict[str, torch.Tensor]] = [safetensors.torch.load(data) for _, data in batches]
    named = zip(tensors, batches, strict=True)
    return WorkerBatch(epoch, step, clips, start, tuple(Batch(**one, utterance_ids=ids) for one, (ids, _) in named))
