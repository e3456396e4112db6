"""The stages in order, their fingerprints, and the in-process way to run them (scorer, tests, benchmarks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emoray.stages.base import WAVEFORM, Row, Stage
from emoray.stages.config import AnnotateConfig
from emoray.stages.decode import Decode
from emoray.stages.embed import EmbedSemantics, EmbedTranscript
from emoray.stages.emphasis import build_emphasis
from emoray.stages.fingerprint import fingerprint
from emoray.stages.guard import GuardConfig, RowOutcome, run_isolating_rows
from emoray.stages.norms import Norms
from emoray.stages.prosody import MeasureProsody
from emoray.stages.quality import MeasureQuality
from emoray.stages.semantics.stage import build_semantics
from emoray.stages.transcribe.stage import build_transcribe

AUDIO_STAGES = ("decode", "prosody", "transcribe")
TEXT_STAGES = ("emphasis", "semantics", "embed_transcript", "embed_semantics")


def audio_stages(config: AnnotateConfig, storage_options: dict[str, Any] | None = None) -> list[Stage]:
    """The first pass: decode, prosody, transcribe, from which norms are fitted; and semantics, if their writer hears.

    Quality comes after decode where it is enabled, or a filter asks for it.

    Args:
        config: The annotate section.
        storage_options: Options of the file system that holds the audio.
    """
    stages: list[Stage] = [Decode(config.audio, storage_options)]
    if config.quality.enabled or MeasureQuality.name in config.filters.reads:
        stages.append(MeasureQuality(config.quality))
    stages += [MeasureProsody(config.prosody), build_transcribe(config.transcribe)]
    describing = build_semantics(config.semantics, None)
    # Here the waveform is at hand, and such a writer waits for no norms.
    return [*stages, describing] if WAVEFORM in describing.requires else stages


def text_stages(config: AnnotateConfig, norms: Norms | None) -> list[Stage]:
    """The second pass, over stored prosody and transcripts: emphasis, semantics, embed_transcript, embed_semantics.

    Semantics are not among them if their writer hears: then they come from the first pass.

    Args:
        config: The annotate section.
        norms: The fitted norms; None gives stages that can be fingerprinted but not run.
    """
    describing = build_semantics(config.semantics, norms)
    return [
        build_emphasis(config.emphasis, norms),
        *([] if WAVEFORM in describing.requires else [describing]),
        EmbedTranscript(config.embed),
        EmbedSemantics(config.embed),
    ]


def fingerprints(config: AnnotateConfig, norms_hash: str | None) -> dict[str, str]:
    """Fingerprint of every stage, without loading a model.

    Args:
        config: The annotate section.
        norms_hash: Hash of the norms in use; None gives the audio pass alone (before norms are fitted).
    """
    stages = audio_stages(config) + (text_stages(config, None) if norms_hash is not None else [])
    found: dict[str, str] = {}
    for stage in stages:
        # The waveform is what decode made.
        names = {"decode" if name == WAVEFORM else name for name in (*stage.requires, *stage.uses)}
        inputs = {name: found[name] for name in sorted(names)}
        if stage.needs_norms:
            assert norms_hash is not None
            inputs["norms"] = norms_hash
        found[stage.name] = fingerprint(stage, inputs)
    return found


def annotate_rows(stages: Sequence[Stage], rows: Sequence[Row], guard: GuardConfig) -> dict[str, list[RowOutcome]]:
    """Run stages one after the other over rows in this process.

    Args:
        stages: In order.
        rows: Utterances; values are put into them.
        guard: Retries.

    Returns:
        Stage → one outcome per row, in order. A row that failed in a stage fails in those that need it, with
        `missing_input`.
    """
    return {stage.name: run_isolating_rows(stage, rows, guard) for stage in stages}
