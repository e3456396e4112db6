"""The packed training set that a model reads, made where it is not there yet; train, evaluate and promote share it."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from emoray.audio.io import AudioConfig
from emoray.errors import LakeError
from emoray.lake.tables import Lake
from emoray.models.build import frontend
from emoray.models.config import ModelConfig
from emoray.stages import filters, pipeline
from emoray.training.pack import is_sealed, pack, training_rows, training_set_hash
from emoray.training.training_set import TrainingSet
from emoray_jobs.cluster.session import session
from emoray_jobs.progress import track

if TYPE_CHECKING:
    from emoray_jobs.config import Config

log = logging.getLogger(__name__)


def training_keys(config: Config, lake: Lake, fingerprints: Mapping[str, str]) -> pl.DataFrame:
    """What a training set of the configured corpus consists of: `training_rows(…, vectors=False)` within the filters.

    Args:
        config: The jobs' configuration; its filters hold, whichever stages the vectors come from.
        lake: Where everything is.
        fingerprints: Of the stages whose text vectors go in.

    Raises:
        LakeError: A filter reads a measure that the corpus was not annotated with.
    """
    keys = training_rows(lake, config.corpus.name, fingerprints, vectors=False)
    own = pipeline.fingerprints(config.annotate, None)
    for stage in sorted(config.annotate.filters.reads):
        if not lake.list_files("annotations", stage, own[stage]):
            raise LakeError(
                f"annotate.filters reads {stage}, and corpus {config.corpus.name!r} was not annotated with it",
                where=lake.root,
                remedy="Measure it: emoray annotate. Or set no such filter",
                kind="not_annotated",
            )
    outside = filters.excluded(lake, keys, config.annotate.filters, own)
    if outside.height:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(Counter(outside["reason"]).items()))
        log.warning("%d of %d utterances are left out by annotate.filters (%s)", outside.height, keys.height, reasons)
    return keys.join(outside, on="utterance_id", how="anti", maintain_order="left")


def ensure_training_set(
    config: Config,
    lake: Lake,
    stack: contextlib.ExitStack,
    *,
    fingerprints: Mapping[str, str],
    model: ModelConfig,
    audio: AudioConfig,
    keys: pl.DataFrame | None = None,
) -> TrainingSet:
    """Pack the configured corpus for a model as far as that is not done, and open it.

    Args:
        config: The jobs' configuration.
        lake: Where everything is.
        stack: Keeps Ray, where it has to be started, beyond this call.
        fingerprints: Of the stages whose text vectors go in.
        model: Whose front-end and text width.
        audio: What counts as usable audio.
        keys: `training_keys`, if the caller has them.
    """
    corpus, front = config.corpus.name, frontend(model.encoder)
    if keys is None:
        keys = training_keys(config, lake, fingerprints)
    ids = keys["utterance_id"].to_list()
    set_hash = training_set_hash(keys, fingerprints, front, audio, model.text_width)
    if not is_sealed(lake, set_hash):
        options: dict[str, Any] = {
            "frontend": front,
            "audio": audio,
            "text_width": model.text_width,
            "shard_rows": config.launch.shard_rows,
        }
        if config.launch.workers:
            stack.enter_context(session(config.cluster, config.lake))
            from emoray_jobs.train.ray_loader import pack_with_ray

            with track("packing the training set", "utterances") as advance:
                pack_with_ray(lake.config, corpus, fingerprints, ids, set_hash, advance=advance, **options)
        else:
            storage = config.lake.storage_options or None
            with track("packing the training set", "utterances") as advance:
                pack(lake, corpus, fingerprints, only=ids, storage_options=storage, progress=advance, **options)
    return TrainingSet.open(lake, set_hash, config.launch.cache_dir, model.classes)
