"""What a scorer is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Semantics = Literal["none", "transcript", "full"]

#: Request's word for a semantic level → the level's name in tables and reports.
LEVEL_OF: dict[str, str] = {"none": "audio", "transcript": "transcript", "full": "full"}


@dataclass(frozen=True)
class ScoreRequest:
    """One clip to score.

    Attributes:
        samples: float32 (S,), mono, 16 kHz.
        transcript: What is said, where it is known.
        words: Its words with times ({word, start_s, end_s}); without them English is aligned.
        speaker_id: Speaker, for the speaker's own norms where the version knows them.
        language: Language of the transcript, where it is known.
        semantics: How much may be used: `none` (sound alone), `transcript` (LES and GS) or `full` (and ES).
        stage_values: Stage values that were computed before (from stage tables, or by another deployment), by stage.
        stage_fingerprints: Their fingerprints. A value whose fingerprint is not the version's counts as absent.
        time_course: Whether windows of the clip are scored too.
    """

    samples: np.ndarray
    transcript: str | None = None
    words: Sequence[Mapping[str, Any]] | None = None
    speaker_id: str | None = None
    language: str | None = None
    semantics: Semantics = "full"
    stage_values: Mapping[str, Mapping[str, Any] | None] | None = None
    stage_fingerprints: Mapping[str, str] | None = None
    time_course: bool = True


@dataclass(frozen=True)
class Estimate:
    """A predicted dimension with its conformal interval.

    Attributes:
        value: In [0, 1].
        low: Lower end of the interval, in [0, 1]; None where the version has no interval for it.
        high: Upper end.
        corpus: The value in units of the corpus's scale; None where it has none.
        corpus_low: Lower end in these units.
        corpus_high: Upper end in these units.
    """

    value: float
    low: float | None = None
    high: float | None = None
    corpus: float | None = None
    corpus_low: float | None = None
    corpus_high: float | None = None


@dataclass(frozen=True)
class TimePoint:
    """The dimensions (in [0, 1]) of one window of the clip."""

    start_s: float
    end_s: float
    valence: float
    arousal: float
    dominance: float


@dataclass(frozen=True)
class Score:
    """The answer for one clip.

    Attributes:
        valence: Unpleasant 0 … 1 pleasant.
        arousal: Calm 0 … 1 excited.
        dominance: Weak 0 … 1 in control.
        scale: Ends of the corpus's scale; None for a version that was trained on classes alone, whose dimensions then
            mean nothing (they have no interval either).
        interval_level: Nominal coverage of the intervals.
        time_course: Windows of 4 s every 1 s; one point where the clip is shorter or no windows were asked for.
        level: Semantic level of the score (audio, transcript, full): the richest whose text vectors were all there.
        used: Text vectors that the model had: of les, gs, es.
        absent: Text vectors that it did not have → why.
        gates: Share of each text vector in the fused semantics; None where the model has no gates.
        experts: Weight of each expert per dimension; None where it has none.
        words: Words with times, prominence and mark; None where there was no emphasis to find.
        transcript: The transcript that was used.
        semantics: The semantics' record {emotion, intensity, attitude, …}; None where there was none.
        emotion: Probability of each class; None without a categorical head.
        duration_s: Length of the clip.
    """

    valence: Estimate
    arousal: Estimate
    dominance: Estimate
    scale: tuple[float, float] | None
    interval_level: float
    time_course: tuple[TimePoint, ...]
    level: str
    used: tuple[str, ...]
    absent: dict[str, str]
    gates: dict[str, float] | None
    experts: dict[str, list[float]] | None
    words: list[dict[str, Any]] | None
    transcript: str | None
    semantics: dict[str, Any] | None
    emotion: dict[str, float] | None
    duration_s: float

    @property
    def emphasised(self) -> list[str] | None:
        """The emphasised words, or None where there was no emphasis to find."""
        return None if self.words is None else [word["word"] for word in self.words if word["emphasised"]]


@dataclass
class Semantic:
    """What is known of one clip's text while it is scored (internal to the room).

    Attributes:
        vectors: Text vectors by granularity.
        absent: Granularity → why it is not there.
        row: The stages' row.
    """

    row: dict[str, Any]
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
