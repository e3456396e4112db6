"""score: a few files in this process, or a folder or table of any size with Ray Data, by a registered model version."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
from rich.console import Group, RenderableType

from emoray.interchange import parquet
from emoray.interchange.atomic_output import atomic_output
from emoray.interchange.label import ExportStats
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.config import TrackingConfig
from emoray.registry.tracking import connect
from emoray.registry.versions import CHAMPION, Version
from emoray.schema import DIMENSIONS, ERROR
from emoray.scoring.bundle_files import FittedStages, open_stages
from emoray.scoring.score import RequestedSemantics
from emoray.stages import pipeline
from emoray.stages.base import Stage
from emoray.stages.decode import Decode
from emoray.stages.fingerprint import fingerprint
from emoray.stages.guard import GuardConfig
from emoray.stages.transcribe.stage import build_transcribe
from emoray_jobs.evaluate.predictions import find_version
from emoray_jobs.pipeline import pending
from emoray_jobs.pipeline.batches import join_stage_values
from emoray_jobs.pipeline.executor import StageExecutor
from emoray_jobs.progress import spinner, track
from emoray_jobs.score.sources import read
from emoray_jobs.score.stage import ScoreStage, with_score_columns
from emoray_jobs.tables import titled_table

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Up to this many clips are scored in this process, without starting Ray.
IN_PROCESS_CLIPS = 32
ROWS_AT_ONCE = 8
HEAD = 10
#: Classes of a clip that are printed, the likeliest first; files hold all.
SHOWN_CLASSES = 3


@dataclass(frozen=True)
class ScoreResult:
    """The scores of a call.

    Attributes:
        scores: Per clip, the first `HEAD` of a table: utterance_id, `value` as `ScoreStage.value_type` says, or
            `error` {type, message, attempts}.
        failed: Number of clips that could not be scored.
        table: Address of the file of the table's scores in the lake; None for clips scored in this process.
    """

    model: str
    version: str
    scores: list[dict[str, Any]]
    clips: int
    failed: int
    table: str | None


def run(
    config: Config,
    *,
    sources: Sequence[str] = (),
    table: str | None = None,
    model: str | None = None,
    transcript: str | None = None,
    speaker: str | None = None,
    semantics: RequestedSemantics = "full",
    name: str | None = None,
) -> ScoreResult:
    """Score recordings.

    Raises:
        InputError: Nothing to score (`nothing_to_score`), no such table (`unknown_table`), one transcript for several
            files (`transcript_for_several`).
        RegistryError: There is no such version, or no champion yet.
        ServiceError: Clips could not be finished.
    """
    lake = Lake(config.lake)
    table_name, utterances = read(lake, config.corpus.manifest, sources, table, transcript, speaker)
    version = find_version(connect(config.tracking, lake), model or CHAMPION)
    with spinner(f"fetching version {version.version} of {version.name}"):
        fitted = open_stages(versions.fetch(connect(config.tracking, lake), version))
    wordless = semantics != "none" and utterances["transcript"].null_count > 0
    stages, fingerprints = _stages(
        lake, config.tracking, version, fitted, semantics, wordless=wordless, time_course=table is None
    )
    if table is None and utterances.num_rows <= IN_PROCESS_CLIPS:
        scores = _here(config.annotate.guard, stages, utterances)
        failed = sum(score["error"] is not None for score in scores)
        return ScoreResult(version.name, version.version, scores, len(scores), failed, None)
    label = name or table_name
    # Ids are unique only within a table: scores of another table must not count for this one.
    fingerprints["score"] = hashlib.sha256(f"{label}\0{fingerprints['score']}".encode()).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        executor = StageExecutor(
            lake,
            config.cluster,
            config.annotate,
            pads.dataset(utterances),
            pending.utterance_lengths(utterances),
            stack,
            stack,
        )
        executor.run_until_complete(stages, fingerprints, f"scoring {label}")
    address = lake.uri("scores", label, f"{version.name}-{version.version}-{semantics}.parquet")
    with atomic_output(address, config.lake.storage_options, force=True) as path:
        failed, head = _write(path, lake, utterances, stages, fingerprints)
    return ScoreResult(version.name, version.version, head, utterances.num_rows, failed, address)


def _stages(
    lake: Lake,
    tracking: TrackingConfig,
    version: Version,
    fitted: FittedStages,
    semantics: RequestedSemantics,
    *,
    wordless: bool,
    time_course: bool,
) -> tuple[list[Stage], dict[str, str]]:
    """Decode, a recogniser that the version knows if clips lack words, score; and fingerprints of all that is read."""
    annotate = fitted.annotate
    reads_text = "embed_transcript" in fitted.fingerprints
    fingerprints = pipeline.fingerprints(annotate, fitted.norms.hash if reads_text else None)
    stages: list[Stage] = [Decode(annotate.audio, lake.config.storage_options)]
    sources, recogniser = fitted.transcripts.values(), fitted.known_recogniser
    if recogniser is not None and (wordless or ("reference" not in sources and semantics != "none")):
        transcribe = build_transcribe(annotate.transcribe.model_copy(update={"kind": recogniser}))
        stages.append(transcribe)
        fingerprints[transcribe.name] = fingerprint(transcribe, {"decode": fingerprints["decode"]})
    score = ScoreStage(
        tracking,
        lake.config,
        version,
        semantics,
        fingerprints,
        given_words="reference" in sources,
        time_course=time_course,
    )
    fingerprints["score"] = fingerprint(score, fingerprints)
    return [*stages, score], fingerprints


def _here(guard: GuardConfig, stages: Sequence[Stage], utterances: pa.Table) -> list[dict[str, Any]]:
    """Score in this process, a few clips at a time."""
    scores = []
    with track("scoring", "clips") as advance:
        for start in range(0, utterances.num_rows, ROWS_AT_ONCE):
            rows = utterances.slice(start, ROWS_AT_ONCE).to_pylist()
            done = pipeline.annotate_rows(stages, rows, guard)
            scores += [_score(*outcomes) for outcomes in zip(done["decode"], done["score"], strict=True)]
            advance(start + len(rows), utterances.num_rows)
    return scores


def _score(decoded: Any, scored: Any) -> dict[str, Any]:
    # The error of decode explains a missing waveform.
    error = decoded.error or scored.error
    return {"utterance_id": scored.utterance_id, "value": scored.value, "error": error}


def _write(
    path: str, lake: Lake, utterances: pa.Table, stages: Sequence[Stage], fingerprints: Mapping[str, str]
) -> tuple[int, list[dict[str, Any]]]:
    """Write a table's scores, a row per clip, with or without an error; the number of errors and the first rows."""
    errors: dict[str, dict[str, Any]] = {}
    for stage in reversed(stages):  # the first stage that failed explains the error
        errors |= pending.errors(lake, stage.name, fingerprints[stage.name])
    head: list[dict[str, Any]] = []

    def parts() -> Iterator[pa.Table]:
        every, marks = pl.Series(utterances["utterance_id"]), {"score": fingerprints["score"]}
        for part in join_stage_values(lake, pads.dataset(utterances), every, marks, ["utterance_id", "audio_uri"]):
            values = part["score"].cast(ScoreStage.value_type)
            error = [errors.get(name) for name in part["utterance_id"].to_pylist()]
            ids = part["utterance_id"].to_pylist()[: HEAD - len(head)]
            head.extend(
                {"utterance_id": name, "value": value, "error": problem}
                for name, value, problem in zip(ids, values[: len(ids)].to_pylist(), error, strict=False)
            )
            table = part.drop_columns(["score"]).append_column("error", pa.array(error, ERROR))
            yield with_score_columns(table, values)

    parquet.write(path, parts(), ExportStats())
    return sum(name in errors for name in utterances["utterance_id"].to_pylist()), head


def to_json(result: ScoreResult) -> str:
    """One JSON object per clip and line."""
    return "".join(json.dumps(score, ensure_ascii=False) + "\n" for score in result.scores)


def render(result: ScoreResult) -> RenderableType:
    """Scores as they are printed: in [0, 1] and, below, in units of the corpus's scale; classes with probabilities."""
    scored = next((score["value"] for score in result.scores if score["value"]), None)
    dimensions = DIMENSIONS if scored is None or scored["valence"] else ()
    classes = ("class",) if scored is not None and scored["emotion"] else ()
    headings = ("clip", *dimensions, *classes, "emphasised", "semantics")
    table = titled_table(f"{result.model} version {result.version}", headings)
    for score in result.scores:
        if score["error"] is not None:
            table.add_row(score["utterance_id"], f"{score['error']['type']}: {score['error']['message']}")
            continue
        value = score["value"]
        cells = [*(_estimate(value[name]) for name in dimensions), *(_classes(value["emotion"]) for _ in classes)]
        table.add_row(score["utterance_id"], *cells, ", ".join(value["emphasised"] or []) or "–", _semantics(value))
    parts: list[RenderableType] = [table]
    if scored is not None and scored["valence"]:
        scale = f"; below, {scored['scale'][0]:g}..{scored['scale'][1]:g}" if scored["scale"] else ""
        parts.append(f"0..1{scale}. Intervals cover {scored['interval_level']:.0%} of clips (nominal)")
    if result.clips > len(result.scores):
        parts.append(f"… and {result.clips - len(result.scores):,} more")
    if result.failed:
        parts.append(f"{result.failed:,} of {result.clips:,} could not be scored")
    if result.table:
        parts.append(f"scores: {result.table}")
    return Group(*parts)


def _estimate(estimate: dict[str, Any]) -> str:
    lines = []
    for value, low, high in (("value", "low", "high"), ("corpus", "corpus_low", "corpus_high")):
        if estimate[value] is not None:
            interval = "" if estimate[low] is None else f" [{estimate[low]:.2f}, {estimate[high]:.2f}]"
            lines.append(f"{estimate[value]:.2f}{interval}")
    return "\n".join(lines)


def _classes(emotion: list[dict[str, Any]]) -> str:
    ordered = sorted(emotion, key=lambda one: one["probability"], reverse=True)
    return "\n".join(f"{one['emotion']} {one['probability']:.2f}" for one in ordered[:SHOWN_CLASSES])


def _semantics(value: dict[str, Any]) -> str:
    absent = {reason for reason in value["absent"].values() if reason}
    return "\n".join([value["level"], *sorted(absent)])
