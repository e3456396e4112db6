"""A scorer's requests and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from emoray.schema import DIMENSIONS

RequestedSemantics = Literal["none", "transcript", "full"]

#: Value of a request → name of the semantic level in tables and reports, and back.
LEVEL_OF: dict[RequestedSemantics, str] = {"none": "audio", "transcript": "transcript", "full": "full"}
REQUESTED_OF: dict[str, RequestedSemantics] = {level: requested for requested, level in LEVEL_OF.items()}


@dataclass(frozen=True)
class ScoreRequest:
    """One clip to score.

    Attributes:
        samples: float32 (S,), mono, 16 kHz.
        transcript: What is said, if known.
        words: Its words with times ({word, start_s, end_s}); without them English is aligned.
        speaker_id: Speaker, for the speaker's norms if the version has them.
        language: Language of the transcript, if known.
        semantics: How much may be used: `none` (sound alone), `transcript` (LES and GS) or `full` (and ES).
        stage_values: Stage values computed earlier (in stage tables, or by another deployment), by stage.
        stage_fingerprints: Their fingerprints. A value whose fingerprint is not the version's counts as absent.
    """

    samples: np.ndarray
    transcript: str | None = None
    words: Sequence[Mapping[str, Any]] | None = None
    speaker_id: str | None = None
    language: str | None = None
    semantics: RequestedSemantics = "full"
    stage_values: Mapping[str, Mapping[str, Any] | None] | None = None
    stage_fingerprints: Mapping[str, str] | None = None
    time_course: bool = True


@dataclass(frozen=True)
class Estimate:
    """A predicted dimension with its conformal interval.

    Attributes:
        value: In [0, 1].
        low, high: Ends of the interval, in [0, 1]; None if the version has no interval for it.
        corpus, corpus_low, corpus_high: The same in units of the corpus's scale; None if it has none.
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
        scale: Ends of the corpus's scale; None if it is not known.
        dimensional: False for a version that was trained on classes alone: its dimensions mean nothing.
        interval_level: Nominal coverage of the intervals.
        time_course: Windows of 4 s every 1 s; one point if the clip is shorter or no windows were requested.
        level: Semantic level of the score: the set of text vectors that the model had (`emoray.models.batch.LEVELS`).
        condition: Name of the condition whose intervals these are: the nearest that the version was fitted under.
        transcript_source: Where its words are from: `reference` for given ones, or the recogniser; None without words.
        speaker_clips: Enrolment clips that the speaker's norms rest on; 0 for an unknown speaker.
        used: Text vectors that the model had: of les, gs, es.
        absent: Text vectors that it did not have → reason.
        gates: Share of each text vector in the fused semantics; None if the model has no gates.
        experts: Weight of each expert per dimension; None if it has none.
        words: Words with times, prominence and mark; None without emphasis.
        semantics: The semantics' record {emotion, intensity, attitude, …}; None without one.
        emotion: Probability of each class; None without a categorical head.
    """

    valence: Estimate
    arousal: Estimate
    dominance: Estimate
    scale: tuple[float, float] | None
    dimensional: bool
    interval_level: float
    time_course: tuple[TimePoint, ...]
    level: str
    condition: str
    transcript_source: str | None
    speaker_clips: int
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
        """The emphasised words, or None without emphasis."""
        return None if self.words is None else [word["word"] for word in self.words if word["emphasised"]]

    @property
    def likeliest(self) -> str | None:
        """The most probable class, or None without a categorical head."""
        return max(self.emotion, key=self.emotion.__getitem__) if self.emotion else None

    def columns(self) -> dict[str, float | None]:
        """The dimensions as columns of a table: valence, valence_low, …, valence_corpus, …, dominance_corpus_high."""
        return {
            name if part == "value" else f"{name}_{part}": value
            for name in DIMENSIONS
            for part, value in vars(getattr(self, name)).items()
        }


@dataclass
class TextVectors:
    """Text vectors of one clip by granularity, the reasons for those that are absent, and the stages' row.

    Internal to scoring. `source` is where the words are from: `reference`, or the recogniser.
    """

    row: dict[str, Any]
    source: str = "reference"
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
