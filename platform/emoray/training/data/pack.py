"""Packing: from utterances and their text vectors to the shards of a training set.

Audio is decoded once, here; epochs then read at the speed of the page cache. Features are float16, uncompressed.
Shapes: T frames, F features.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from emoray.audio.io import AUDIO_HZ, AudioConfig, decode
from emoray.errors import AudioError, TrainingError
from emoray.lake.tables import Lake
from emoray.models.frontend import Frontend, clip_measures
from emoray.schema import DIMENSIONS, GRANULARITIES, UTTERANCES
from emoray.stages.conditions import FittedCondition
from emoray.stages.deviations import DEVIATION_WIDTH
from emoray.stages.norms import Norms

log = logging.getLogger(__name__)

#: To be raised when packed shards of the same inputs would differ.
PACK_VERSION = 3

#: An utterance's position in its dialogue.
DIALOGUE = ("dialogue_id", "turn")

#: Columns of the utterances table in a training set.
KEPT = ("split", "fold", "speaker_id", "gender", "scale_min", "scale_max", *DIMENSIONS, "emotion", *DIALOGUE)


def column(name: str, condition: str) -> str:
    """Column of a text vector under a condition, or of `usable`: whether the clip counts under it."""
    return f"{name}@{condition}"


def shard_schema(conditions: Sequence[str]) -> pa.Schema:
    """Schema of shards with the text vectors of some conditions."""
    return pa.schema(
        [
            pa.field("utterance_id", pa.string(), nullable=False),
            *(UTTERANCES.field(name) for name in KEPT),
            pa.field("duration_s", pa.float64(), nullable=False),
            pa.field("features", pa.large_binary(), nullable=False),
            pa.field("measures", pa.binary()),
            *((column("usable", one), pa.bool_()) for one in conditions),
            *((column(name, one), pa.binary()) for one in conditions for name in GRANULARITIES),
        ]
    )


def training_rows(
    lake: Lake,
    corpus: str,
    conditions: Sequence[FittedCondition],
    ids: Sequence[str] | None = None,
    *,
    vectors: bool = True,
) -> pl.DataFrame:
    """Utterances (only `ids`, if given) joined with their text vectors under each condition.

    A condition's fingerprints are those of `embed_transcript` and `embed_semantics` (others are ignored; a missing one
    means no text). Without `vectors`, only whether each is present (bool), which is what the hash needs.

    Returns:
        One row per utterance, sorted by id: address of the audio, labels, and per condition `les@…`, `gs@…`, `es@…`,
        and `usable@…`: false for a clip that enrols its own speaker.
    """
    address = ["utterance_id", "audio_uri", "start_s", "end_s"]
    frame = pl.DataFrame(lake.utterances(corpus, [*address, *KEPT]))
    if ids is not None:
        frame = frame.filter(pl.col("utterance_id").is_in(ids))
    frame = frame.sort("utterance_id")
    for condition in conditions:
        frame = _join_condition(lake, frame, condition, ids, vectors=vectors)
    return frame


def _join_condition(
    lake: Lake, frame: pl.DataFrame, condition: FittedCondition, ids: Sequence[str] | None, *, vectors: bool
) -> pl.DataFrame:
    enrols = pl.repeat(False, frame.height, eager=True)
    if lake.exists("norms", f"{condition.norms}.json"):
        norms = Norms.from_json(lake.read_json("norms", f"{condition.norms}.json"))
        enrols = norms.enrolment_clips(frame)
    frame = frame.with_columns((~enrols).alias(column("usable", condition.name)))
    for stage, names in (("embed_transcript", ("les", "gs")), ("embed_semantics", ("es",))):
        prints = condition.fingerprints
        table = lake.stage_outcomes(stage, prints[stage], ["value"]) if stage in prints else None
        columns = [column(name, condition.name) for name in names]
        if table is None:
            kind = pl.List(pl.Float32) if vectors else pl.Boolean
            frame = frame.with_columns(pl.lit(None, kind).alias(name) for name in columns)
            continue
        if ids is not None:
            table = table.filter(pl.col("utterance_id").is_in(ids))
        values = [pl.col("value").struct.field(name) for name in names]
        if not vectors:
            values = [value.is_not_null() for value in values]
        picked = table.select("utterance_id", *(value.alias(name) for value, name in zip(values, columns, strict=True)))
        frame = frame.join(picked.collect(), on="utterance_id", how="left", maintain_order="left")
    return frame


def training_set_hash(
    keys: pl.DataFrame,
    conditions: Sequence[FittedCondition],
    frontend: Frontend,
    audio: AudioConfig,
    text_width: int,
) -> str:
    """Hash of all inputs of a training set.

    `keys` are `training_rows(…, vectors=False)`.
    """
    digest = hashlib.blake2b(digest_size=8)
    inputs = {
        "version": PACK_VERSION,
        "fingerprints": {
            one.name: {name: one.fingerprints.get(name) for name in ("embed_transcript", "embed_semantics")}
            for one in conditions
        },
        "frontend": frontend.options(),
        "audio": audio.model_dump(mode="json"),
        "text_width": text_width,
    }
    digest.update(json.dumps(inputs, sort_keys=True).encode())
    digest.update(keys.sort("utterance_id").write_csv().encode())
    return digest.hexdigest()


def pack_shard(
    rows: Sequence[Mapping[str, Any]],
    conditions: Sequence[str],
    frontend: Frontend,
    audio: AudioConfig,
    text_width: int,
    storage_options: dict[str, Any] | None = None,
) -> pa.Table:
    """Decode rows of `training_rows` (as dicts) and compute their features, as a table with their `shard_schema`.

    Samples under `waveform`, if present, are used instead of decoding. Rows whose audio cannot be decoded are left out
    (rows in − rows out) and logged.

    Raises:
        TrainingError: A text vector has another width.
        TransientError: The storage failed; worth another try of the whole shard.
    """
    packed: list[dict[str, Any]] = []
    for row in rows:
        samples = row.get("waveform")
        if samples is None:
            try:
                samples = decode(
                    row["audio_uri"], audio, start_s=row["start_s"], end_s=row["end_s"], storage_options=storage_options
                ).samples
            except AudioError as error:
                log.warning("left out of the training set: %s: %s", row["utterance_id"], error)
                continue
        values = {name: row.get(name) for name in KEPT}
        features_TF = frontend.packed(samples)
        values.update(
            utterance_id=row["utterance_id"],
            duration_s=len(samples) / AUDIO_HZ,
            features=features_TF.tobytes(),
            measures=clip_measures(features_TF).tobytes() if frontend.width > 1 else None,
        )
        for condition in conditions:
            values[column("usable", condition)] = row[column("usable", condition)]
            for name in GRANULARITIES:
                vector = row.get(column(name, condition))
                values[column(name, condition)] = _vector_bytes(vector, name, text_width, row["utterance_id"])
        packed.append(values)
    return pa.Table.from_pylist(packed, schema=shard_schema(conditions))


def _vector_bytes(vector: Sequence[float] | None, name: str, text_width: int, utterance_id: str) -> bytes | None:
    """A text vector as float32; zeros stand in LES and GS where ES holds its numbers."""
    if vector is None:
        return None
    array = np.asarray(vector, dtype=np.float32)
    if name != "es" and array.shape == (text_width - DEVIATION_WIDTH,):
        array = np.pad(array, (0, DEVIATION_WIDTH))
    if array.shape != (text_width,):
        raise TrainingError(
            f"text vector of width {array.size}, the model expects {text_width}",
            where=f"{utterance_id}, {name}",
            remedy=f"Set model.text_width={array.size} or choose the text encoder that fits; with"
            f" annotate.embed.semantics_numbers it is the encoder's width and {DEVIATION_WIDTH}",
            kind="bad_width",
        )
    return array.tobytes()


def write_shard(lake: Lake, set_hash: str, number: int, table: pa.Table) -> str:
    """Write a shard as an uncompressed Arrow IPC file of one record batch; returns its file name, for `seal`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    name = f"shard-{number:05d}.arrow"
    lake.write_bytes(sink.getvalue().to_pybytes(), "training_sets", set_hash, name)
    return name


def seal(
    lake: Lake,
    set_hash: str,
    shards: Sequence[str],
    *,
    conditions: Sequence[str],
    frontend: Frontend,
    text_width: int,
    counts: dict[str, int],
) -> None:
    """Finish a training set with its index, without which it cannot be opened.

    `shards` are file names in order; `counts` are `rows` (packed) and `left_out` (undecodable).
    """
    index = {
        "shards": list(shards),
        "conditions": list(conditions),
        "width": frontend.width,
        "mels": frontend.mels,
        "frame_hz": frontend.frame_hz,
        "frontend": frontend.options(),
        "text_width": text_width,
        **counts,
    }
    lake.write_json(index, "training_sets", set_hash, "index.json")


def is_sealed(lake: Lake, set_hash: str) -> bool:
    """Whether a training set is finished and can be opened."""
    return lake.exists("training_sets", set_hash, "index.json")


def pack(
    lake: Lake,
    corpus: str,
    conditions: Sequence[FittedCondition],
    *,
    frontend: Frontend,
    audio: AudioConfig,
    text_width: int,
    shard_rows: int,
    only: Sequence[str] | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> str:
    """Pack a corpus, or only some ids of it, in this process, unless the same set exists already; returns its hash.

    `progress` is called with utterances done and in all.
    """
    keys = training_rows(lake, corpus, conditions, only, vectors=False)
    set_hash, names = training_set_hash(keys, conditions, frontend, audio, text_width), [one.name for one in conditions]
    if is_sealed(lake, set_hash):
        return set_hash
    ids = keys["utterance_id"].to_list()
    shards, packed = [], 0
    for number, start in enumerate(range(0, len(ids), shard_rows)):
        rows = training_rows(lake, corpus, conditions, ids[start : start + shard_rows])
        table = pack_shard(rows.to_dicts(), names, frontend, audio, text_width, storage_options)
        shards.append(write_shard(lake, set_hash, number, table))
        packed += table.num_rows
        progress(min(start + shard_rows, len(ids)), len(ids))
    counts = {"rows": packed, "left_out": len(ids) - packed}
    seal(lake, set_hash, shards, conditions=names, frontend=frontend, text_width=text_width, counts=counts)
    return set_hash
