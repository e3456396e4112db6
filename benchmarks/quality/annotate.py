"""The bare loop that `make quality` annotates with: no Ray, several processes, resumable from the stage tables."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import stage_schema
from emoray.stages.base import Stage
from emoray.stages.config import AnnotateConfig
from emoray.stages.norms import Norms
from emoray.stages.pipeline import (
    AUDIO_STAGES,
    TEXT_STAGES,
    annotate_rows,
    audio_stages,
    fingerprints,
    text_stages,
)

#: Rows that a process annotates between two writes: repeated work after a kill is at most this, per process.
CHUNK_ROWS = 32

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Chunk:
    """The rows of one call of a worker process.

    Attributes:
        lake: The lake.
        config: The annotate section.
        rows: Utterances, with earlier stages' values.
        norms: Of the text pass; None for the audio pass.
        fingerprints: Of the pass's stages.
    """

    lake: LakeConfig
    config: AnnotateConfig
    rows: list[dict[str, Any]]
    norms: dict[str, Any] | None
    fingerprints: dict[str, str]


def annotate(
    lake_config: LakeConfig,
    corpus: str,
    config: AnnotateConfig,
    processes: int,
    progress: Progress,
    *,
    split: str | None = None,
    norms: Norms | None = None,
) -> tuple[dict[str, str], Norms]:
    """Bring the stage tables of a corpus up to date.

    Args:
        lake_config: The lake.
        corpus: Name of the corpus.
        config: The annotate section.
        processes: Processes at a time.
        progress: (what, done, total).
        split: Only this split.
        norms: Norms to use; fitted by default.

    Returns:
        Fingerprint of every stage, and the norms.
    """
    lake = Lake(lake_config)
    table = lake.utterances(corpus).to_pylist()
    rows = {row["utterance_id"]: row for row in table if split is None or row["split"] == split}
    prints = fingerprints(config, None)
    _run_pass(lake, lake_config, rows, config, None, prints, AUDIO_STAGES, processes, progress, reads=())
    if norms is None:
        norms = Norms.fit(_norm_rows(lake, rows, prints), config.norms)
    lake.write_json(norms.to_json(), "norms", f"{norms.hash}.json")
    prints = fingerprints(config, norms.hash)
    _run_pass(
        lake,
        lake_config,
        rows,
        config,
        norms.to_json(),
        prints,
        TEXT_STAGES,
        processes,
        progress,
        reads=("prosody", "transcribe"),
    )
    return prints, norms


def stage_values(lake: Lake, stage: str, fingerprint: str) -> dict[str, dict[str, Any]]:
    """A stage's values by utterance; failed ones are left out."""
    table = lake.stage_outcomes(stage, fingerprint, ["value"])
    if table is None:
        return {}
    return {row["utterance_id"]: row["value"] for row in table.collect().to_dicts() if row["value"] is not None}


def _norm_rows(
    lake: Lake, rows: Mapping[str, Mapping[str, Any]], prints: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    transcripts = stage_values(lake, "transcribe", prints["transcribe"])
    for name, prosody in stage_values(lake, "prosody", prints["prosody"]).items():
        if name in rows:
            yield {**rows[name], "prosody": prosody, "transcribe": transcripts.get(name)}


def _run_pass(
    lake: Lake,
    lake_config: LakeConfig,
    rows: Mapping[str, dict[str, Any]],
    config: AnnotateConfig,
    norms: dict[str, Any] | None,
    prints: dict[str, str],
    stages: tuple[str, ...],
    processes: int,
    progress: Progress,
    reads: tuple[str, ...],
) -> None:
    tables = [lake.stage_outcomes(stage, prints[stage], ["error"]) for stage in stages]
    done = set.intersection(*(set() if one is None else set(one.collect()["utterance_id"]) for one in tables))
    todo = sorted(rows.keys() - done)
    if not todo:
        return
    inputs = {stage: stage_values(lake, stage, prints[stage]) for stage in reads}
    chunks = []
    for start in range(0, len(todo), CHUNK_ROWS):
        names = todo[start : start + CHUNK_ROWS]
        chunk_rows = [{**rows[name], **{stage: inputs[stage].get(name) for stage in reads}} for name in names]
        chunks.append(Chunk(lake_config, config, chunk_rows, norms, prints))
    label = ", ".join(stages)
    finished = 0
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_annotate_chunk, chunk) for chunk in chunks]):
            finished += future.result()
            progress(label, finished, len(todo))


def _annotate_chunk(chunk: Chunk) -> int:
    torch.set_num_threads(1)
    lake = Lake(chunk.lake)
    stages: list[Stage]
    if chunk.norms is None:
        stages = audio_stages(chunk.config, chunk.lake.storage_options)
    else:
        stages = text_stages(chunk.config, Norms.from_json(chunk.norms))
    outcomes = annotate_rows(stages, chunk.rows, chunk.config.guard)
    for stage in stages:
        rows = [outcome.as_row() for outcome in outcomes[stage.name]]
        table = pa.Table.from_pylist(rows, stage_schema(stage.value_type))
        lake.append_stage(stage.name, chunk.fingerprints[stage.name], table)
    return len(chunk.rows)
