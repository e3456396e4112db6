"""The data side of training on Ray: packing with Ray tasks, and each worker's part of the plan through Ray Data."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
import safetensors.torch
import torch

from emoray.audio.io import AudioConfig
from emoray.errors import TransientError
from emoray.lake import Lake, LakeConfig
from emoray.models import Batch, Frontend
from emoray.training.batch_plan import worker_slice
from emoray.training.loader import Share, make_share
from emoray.training.pack import pack_shard, seal, training_rows, write_shard
from emoray.training.training_set import TrainingSet
from emoray_jobs.progress import Advance
from emoray_jobs.train_worker import Assignment

#: Shards that one task packs at most: it scans the stage tables once for all of them, and holds their text vectors.
SHARDS_PER_TASK = 32
#: Blocks of a plan at most; longer plans get more steps per block.
MAX_BLOCKS = 4096
TENSORS = ("features_BTF", "lengths_B", "text_BKE", "present_BK", "target_B3", "label_B")
PAYLOAD = pa.schema([("epoch", pa.int32()), ("step", pa.int64()), ("batches", pa.list_(pa.large_binary()))])


def pack_with_ray(
    lake: LakeConfig,
    corpus: str,
    fingerprints: Mapping[str, str],
    ids: Sequence[str],
    set_hash: str,
    *,
    frontend: Frontend,
    audio: AudioConfig,
    text_width: int,
    shard_rows: int,
    advance: Advance,
) -> None:
    """Pack a training set with Ray tasks and seal it; the bytes are those of `emoray.training.training_set.pack`.

    Args:
        lake: Where the tables are and the shards go.
        corpus: Which corpus.
        fingerprints: Of the stages with text vectors.
        ids: All utterances, sorted.
        set_hash: `training_set_hash` of all this.
        frontend: The features' front-end.
        audio: What counts as usable audio.
        text_width: Width of the text vectors.
        shard_rows: Utterances per shard.
        advance: Called with (utterances done, all).
    """
    numbers = range(-(-len(ids) // shard_rows))
    cores = int(ray.cluster_resources().get("CPU", 1))
    per_task = min(SHARDS_PER_TASK, max(1, -(-len(numbers) // (2 * cores))))
    task = ray.remote(_pack_shards).options(num_cpus=1, max_retries=3, retry_exceptions=[TransientError])
    waiting = []
    for first in range(0, len(numbers), per_task):
        part = list(ids[first * shard_rows : (first + per_task) * shard_rows])
        waiting.append(
            task.remote(
                lake, corpus, dict(fingerprints), part, first, set_hash, frontend, audio, text_width, shard_rows
            )
        )
    shards: dict[int, str] = {}
    packed = seen = 0
    advance(0, len(ids))
    while waiting:
        ready, waiting = ray.wait(waiting)
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
        frontend=frontend,
        text_width=text_width,
        counts=counts,
    )


def _pack_shards(
    lake: LakeConfig,
    corpus: str,
    fingerprints: dict[str, str],
    ids: list[str],
    first: int,
    set_hash: str,
    frontend: Frontend,
    audio: AudioConfig,
    text_width: int,
    shard_rows: int,
) -> list[tuple[int, str, int, int]]:
    """Pack neighbouring shards.

    Returns:
        Number, file name, rows packed and rows seen of each.
    """
    store = Lake(lake)
    rows = training_rows(store, corpus, fingerprints, ids)
    written = []
    for start in range(0, rows.height, shard_rows):
        part = rows.slice(start, shard_rows)
        table = pack_shard(part.to_dicts(), frontend, audio, text_width, lake.storage_options or None)
        number = first + start // shard_rows
        written.append((number, write_shard(store, set_hash, number, table), table.num_rows, part.height))
    return written


class RayDataLoader:
    """A worker's shares of the batch plan, collated ahead of it by Ray Data tasks anywhere in the cluster.

    Every rank runs a dataset of its own over the same plan, in order and not split, so the shares depend on (plan,
    rank, world) alone and reading can begin at any step: `streaming_split` deals rows differently from run to run.

    Args:
        assignment: The training set, and how batches are made of it.
        rank: This worker.
        world: How many workers there are.
    """

    def __init__(self, assignment: Assignment, rank: int, world: int) -> None:
        self._collate = _Collate(assignment, rank, world)
        self._launch = assignment.launch
        self._rank, self._world = rank, world

    def __call__(self, plan: pa.Table, first: int) -> Iterator[Share]:
        """Shares from row `first` of the plan on."""
        rows = plan.slice(first).select(["epoch", "step", "utterance_ids"])
        if rows.num_rows == 0:
            return
        size = max(self._launch.steps_per_task, -(-rows.num_rows // MAX_BLOCKS))
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        dataset: ray.data.Dataset = ray.data.from_arrow(
            [rows.slice(start, size) for start in range(0, rows.num_rows, size)]
        )
        context = dataset.context
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        limits = context.execution_options.resource_limits.copy(object_store_memory=self._launch.read_ahead_mib * 2**20)
        context.execution_options.resource_limits = limits
        dataset = dataset.map_batches(
            self._collate,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self._launch.cpus_per_data_task,
        )
        ids = rows["utterance_ids"]
        coming = dataset.iter_batches(
            batch_size=1, batch_format="pyarrow", prefetch_batches=self._launch.read_ahead_steps
        )
        for index, table in enumerate(coming):
            assert isinstance(table, pa.Table)
            row = table.to_pylist()[0]
            clips = ids[index].as_py()
            yield _to_share(row, clips, self._rank, self._world)


class _Collate:
    """Makes the shares of one rank from rows of the plan; what Ray Data's tasks run."""

    def __init__(self, assignment: Assignment, rank: int, world: int) -> None:
        self._where = (assignment.lake.model_dump_json(), assignment.training_set, assignment.train.cache_dir)
        self._classes = tuple(assignment.model.classes)
        self._config, self._rank, self._world = assignment.train, rank, world

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        training_set = _open(*self._where, self._classes)
        for row in rows.to_pylist():
            share = make_share(training_set, row, self._config, self._rank, self._world)
            batches = [_to_bytes(batch) for batch in share.batches]
            yield pa.Table.from_pylist([{"epoch": share.epoch, "step": share.step, "batches": batches}], PAYLOAD)


@functools.lru_cache(maxsize=2)
def _open(lake: str, set_hash: str, cache_dir: str | None, classes: tuple[str, ...]) -> TrainingSet:
    """The training set, mapped once per process."""
    return TrainingSet.open(Lake(LakeConfig.model_validate_json(lake)), set_hash, cache_dir, classes)


def _to_bytes(batch: Batch) -> bytes:
    return safetensors.torch.save({name: getattr(batch, name).contiguous() for name in TENSORS})


def _to_share(row: Mapping[str, Any], clips: Sequence[str], rank: int, world: int) -> Share:
    start, mine = worker_slice(clips, rank, world)
    batches, at = [], 0
    for data in row["batches"]:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
        size = len(tensors["lengths_B"])
        batches.append(Batch(**tensors, utterance_ids=tuple(mine[at : at + size])))
        at += size
    return Share(row["epoch"], row["step"], len(clips), start, tuple(batches))
