"""The stages in order, their fingerprints, and how to run them in process (scorer, tests, benchmarks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emoray.stages.base import WAVEFORM, Row, Stage
from emoray.stages.conditions import Condition
from emoray.stages.config import AnnotateConfig
from emoray.stages.decode import Decode
from emoray.stages.embed import EmbedSemantics, EmbedSemanticsWithNumbers, EmbedTranscript
from emoray.stages.emphasis import Emphasis
from emoray.stages.fingerprint import chained_fingerprint
from emoray.stages.guard import GuardConfig, RowOutcome, run_isolating_rows
from emoray.stages.norms import Norms
from emoray.stages.prosody import MeasureProsody
from emoray.stages.quality import MeasureQuality
from emoray.stages.semantics.stage import build_semantics
from emoray.stages.transcribe.stage import build_transcribe

AUDIO_STAGES = ("decode", "prosody", "transcribe")
TEXT_STAGES = ("emphasis", "semantics", "embed_transcript", "embed_semantics")


def conditions(config: AnnotateConfig) -> list[Condition]:
    """The conditions under which a corpus is annotated, the first one first; each once."""
    enrolments = (config.norms.enrol_clips, *config.conditions.enrol_clips)
    sources = (config.transcribe.kind, *config.conditions.transcripts)
    return list(dict.fromkeys(Condition(clips, source) for source in sources for clips in enrolments))


def under(config: AnnotateConfig, condition: Condition) -> AnnotateConfig:
    """The configuration of annotate under one condition alone."""
    changed: dict[str, object] = {
        "transcribe": config.transcribe.model_copy(update={"kind": condition.transcript}),
        "norms": config.norms.model_copy(update={"enrol_clips": condition.enrol_clips}),
        "conditions": config.conditions.model_copy(update={"enrol_clips": (), "transcripts": ()}),
    }
    return config.model_copy(update=changed)


def audio_stages(config: AnnotateConfig, storage_options: dict[str, Any] | None = None) -> list[Stage]:
    """The first pass: decode, prosody, transcribe, from which norms are fitted.

    Quality comes after decode if it is enabled, or a filter needs it. `storage_options` are for the file system of the
    audio.
    """
    stages: list[Stage] = [Decode(config.audio, storage_options)]
    if config.quality.enabled or MeasureQuality.name in config.filters.reads:
        stages.append(MeasureQuality(config.quality))
    return [*stages, MeasureProsody(config.prosody), build_transcribe(config.transcribe)]


def text_stages(config: AnnotateConfig, norms: Norms | None) -> list[Stage]:
    """The second pass, over stored prosody and transcripts: emphasis, semantics, embed_transcript, embed_semantics.

    Without norms the stages can be fingerprinted but not run. Semantics that hear need `with_decode`.
    """
    return [
        Emphasis(config.emphasis.prosody, norms),
        build_semantics(config.semantics, norms),
        EmbedTranscript(config.embed),
        _embed_semantics(config, norms),
    ]


def with_decode(text: Sequence[Stage], audio: Sequence[Stage]) -> list[Stage]:
    """The second pass with decode in front, if one of its stages reads the waveform, which no table holds."""
    heard = any(WAVEFORM in (*stage.requires, *stage.uses) for stage in text)
    return [*(stage for stage in audio if heard and stage.name == Decode.name), *text]


def _embed_semantics(config: AnnotateConfig, norms: Norms | None) -> EmbedSemantics:
    if config.embed.semantics_numbers:
        return EmbedSemanticsWithNumbers(config.embed, norms, against=config.semantics.cues.against)
    return EmbedSemantics(config.embed)


def fingerprints(config: AnnotateConfig, norms_hash: str | None) -> dict[str, str]:
    """Fingerprint of every stage, without loading a model.

    Without a `norms_hash` only those of the audio pass (before norms are fitted).
    """
    stages = audio_stages(config) + (text_stages(config, None) if norms_hash is not None else [])
    found: dict[str, str] = {}
    for stage in stages:
        found[stage.name] = chained_fingerprint(stage, found, norms_hash)
    return found


def annotate_rows(stages: Sequence[Stage], rows: Sequence[Row], guard: GuardConfig) -> dict[str, list[RowOutcome]]:
    """Run stages one after the other over rows in this process; values are put into the rows.

    Returns:
        Stage → one outcome per row, in order. A row that failed in a stage fails in those that need it, with
        `missing_input`.
    """
    return {stage.name: run_isolating_rows(stage, rows, guard) for stage in stages}
