"""Configuration of annotate: what each stage does, and how the rows are processed."""

from __future__ import annotations

from emoray.audio.io import AudioConfig
from emoray.audio.prosody import ProsodyConfig
from emoray.audio.quality import QualityConfig
from emoray.config import Section
from emoray.stages.conditions import ConditionsConfig
from emoray.stages.embed import EmbedConfig
from emoray.stages.emphasis import EmphasisConfig
from emoray.stages.filters import FiltersConfig
from emoray.stages.guard import GuardConfig
from emoray.stages.norms import NormsConfig
from emoray.stages.semantics.stage import SemanticsConfig
from emoray.stages.transcribe.config import TranscribeConfig


class AnnotateConfig(Section):
    """Everything that `annotate` needs.

    Attributes:
        audio: What counts as usable audio, for the scorer's requests too.
        quality: Loudness, noise and similar: measured if a filter needs it, or if it is enabled.
        filters: Which utterances are annotated, trained on and evaluated; none by default.
        prosody: F0 and energy.
        transcribe: Speech recognition or the corpus's transcripts.
        emphasis: Emphasis detection.
        norms: How speaker and corpus norms are fitted.
        conditions: What else may be known of a clip: other enrolments, other words.
        semantics: Description of how the clip is spoken.
        embed: The text encoder.
        guard: Retries.
        batch_rows: Utterances per batch, at most …
        batch_audio_s: … and seconds of audio per batch, at most.
        flush_rows: A file is written once there are so many outcomes (a kill loses at most these, and the rows in
            progress) …
        flush_s: … or once the oldest outcome is so old.
        compact_grace_s: How long files that compaction replaced stay for readers that may still open them.
        max_error_fraction: With a larger share of failed utterances the job fails, after everything is written.
    """

    audio: AudioConfig
    quality: QualityConfig
    filters: FiltersConfig
    prosody: ProsodyConfig
    transcribe: TranscribeConfig
    emphasis: EmphasisConfig
    norms: NormsConfig
    conditions: ConditionsConfig
    semantics: SemanticsConfig
    embed: EmbedConfig
    guard: GuardConfig
    batch_rows: int
    batch_audio_s: float
    flush_rows: int
    flush_s: float
    compact_grace_s: float
    max_error_fraction: float
