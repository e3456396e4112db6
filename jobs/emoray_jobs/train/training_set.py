"""The packed training set that a model reads, made where it is not there yet; train, evaluate and promote share it."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from emoray.audio.io import AudioConfig
from emoray.errors import LakeError
from emoray.lake.tables import Lake
from emoray.models.build import frontend
from emoray.models.config import ModelConfig
from emoray.stages import filters, pipeline
from emoray.stages.conditions import FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.training.config import LaunchConfig
from emoray.training.data.pack import is_sealed, pack, training_rows, training_set_hash
from emoray.training.data.training_set import TrainingSet
from emoray_jobs.cluster.session import session
from emoray_jobs.config import ClusterConfig
from emoray_jobs.progress import track

log = logging.getLogger(__name__)


def training_keys(
    lake: Lake, corpus: str, annotate: AnnotateConfig, conditions: Sequence[FittedCondition]
) -> pl.DataFrame:
    """What a training set of a corpus consists of: `training_rows(…, vectors=False)` within the filters.

    Args:
        annotate: Its filters apply, whichever stages the vectors come from.

    Raises:
        LakeError: A filter reads a measure that the corpus was not annotated with.
    """
    keys = training_rows(lake, corpus, conditions, vectors=False)
    own = pipeline.fingerprints(annotate, None)
    for stage in sorted(annotate.filters.reads):
        if not lake.list_files("annotations", stage, own[stage]):
            raise LakeError(
                f"annotate.filters reads {stage}, and corpus {corpus!r} was not annotated with it",
                where=lake.root,
                remedy="Measure it: emoray annotate. Or set no such filter",
                kind="not_annotated",
            )
    outside = filters.excluded(lake, keys, annotate.filters, own)
    if outside.height:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(Counter(outside["reason"]).items()))
        log.warning("%d of %d utterances are left out by annotate.filters (%s)", outside.height, keys.height, reasons)
    return keys.join(outside, on="utterance_id", how="anti", maintain_order="left")


def ensure_training_set(
    lake: Lake,
    cluster: ClusterConfig,
    launch: LaunchConfig,
    stack: contextlib.ExitStack,
    *,
    corpus: str,
    conditions: Sequence[FittedCondition],
    model: ModelConfig,
    audio: AudioConfig,
    keys: pl.DataFrame,
) -> TrainingSet:
    """Pack a corpus for a model, unless that is done, and open it.

    Args:
        cluster: Which Ray packs it, unless `launch.workers` is 0.
        keys: Of `training_keys`.
    """
    front, ids = frontend(model.encoder), keys["utterance_id"].to_list()
    set_hash = training_set_hash(keys, conditions, front, audio, model.text_width)
    if not is_sealed(lake, set_hash):
        options: dict[str, Any] = {
            "frontend": front,
            "audio": audio,
            "text_width": model.text_width,
            "shard_rows": launch.shard_rows,
        }
        if launch.workers:
            stack.enter_context(session(cluster, lake.config))
            from emoray_jobs.train.ray_loader import pack_with_ray

            with track("packing the training set", "utterances") as advance:
                pack_with_ray(lake.config, corpus, conditions, ids, set_hash, advance=advance, **options)
        else:
            storage = lake.config.storage_options or None
            with track("packing the training set", "utterances") as advance:
                pack(lake, corpus, conditions, only=ids, storage_options=storage, progress=advance, **options)
    return TrainingSet.open(lake, set_hash, launch.cache_dir, model.classes)
