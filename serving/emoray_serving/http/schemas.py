"""Requests and replies of the online API: the models behind its OpenAPI document.

Dimension order is valence, arousal, dominance. Times are milliseconds from the start of the sent audio.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from emoray.scoring.score import RequestedSemantics


class Model(BaseModel):
    """Base of the API's models: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoreParameters(Model):
    """The parameters of a request, in the query or as fields of a multipart form."""

    semantics: RequestedSemantics = Field(
        "full",
        description="Which semantics to use: none (audio alone), transcript (words), full (words and description).",
    )
    transcript: Annotated[str, Field(max_length=10_000)] | None = Field(
        None,
        description="What is said, if you know it; it is aligned to the audio. Without it the words are recognised.",
    )
    speaker_id: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="A speaker that the model version knows; prosody is then compared with this speaker's norms."
    )
    budget_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Longest time to wait for the semantics and the score; late parts count as absent."
    )
    time_course: bool = Field(True, description="Also score a sliding window of 4 s every 1 s.")
    uri: Annotated[str, Field(max_length=2048)] | None = Field(
        None, description="s3://bucket/key instead of a body; the bucket must be on the service's list."
    )


class Interval(Model):
    """Split conformal interval: covers the true value with probability `level` on clips like the development set's."""

    level: float
    lower: float
    upper: float
    lower_corpus: float | None
    upper_corpus: float | None


class Dimension(Model):
    """One dimension: `value` in [0, 1], `value_corpus` in the units of the corpus (`scale`; null where it has none)."""

    value: float
    value_corpus: float | None
    interval: Interval | None


class Word(Model):
    """A word of the transcript; prominence is a sum of z-scores, `emphasised` tells whether it stands out."""

    word: str
    start_ms: float | None
    end_ms: float | None
    prominence: float | None
    emphasised: bool


class Transcript(Model):
    """The words: `source` is given or recognised, `times` is the source of the word times."""

    text: str
    source: str
    times: str | None
    words: list[Word]


class Absent(Model):
    """A part of the semantics that was requested and not used, with the reason.

    `part` is les (the emphasised words), gs (the whole transcript) or es (the description).
    """

    part: str
    reason: str


class Speaker(Model):
    """What the version knows of the speaker."""

    state: Literal["enrolled", "unknown"]
    clips: int = Field(description="Clips that the speaker's norms rest on.")


class SemanticsUsed(Model):
    """The semantics of the score: what was requested, and what was used."""

    requested: RequestedSemantics
    used: RequestedSemantics
    vectors: list[str] = Field(
        description="Text vectors that the model had, of les (emphasised words), gs (whole transcript) and es"
        " (description): the set whose intervals these are."
    )
    condition: str = Field(
        description="The condition whose intervals these are, for example unknown/moonshine: what is known of the"
        " speaker, and where the words are from. The nearest that the version was fitted under."
    )
    absent: list[Absent]
    description: dict[str, Any] | None = Field(
        description="The extended semantics: emotion, intensity, attitude, intention …"
    )


class Window(Model):
    """The score of one window of the clip, each dimension in [0, 1]."""

    start_ms: float
    end_ms: float
    valence: float
    arousal: float
    dominance: float


class Explanation(Model):
    """The model's internal weights; null where the served model has no such part.

    `gates`: share of each text vector (les, gs, es) in the fused semantics. `experts`: weight of each, per dimension.
    """

    gates: dict[str, float] | None
    experts: dict[str, list[float]] | None


class ModelInfo(Model):
    """The version that scored."""

    name: str
    version: str
    alias: str


class Scale(Model):
    """Ends of the corpus scale, the units of `value_corpus`."""

    min: float
    max: float


class ScoreReply(Model):
    """The reply to POST /v1/score."""

    request_id: str
    model: ModelInfo
    scale: Scale | None
    audio_start_ms: float
    audio_end_ms: float
    valence: Dimension | None = Field(
        description="Null, as the others, for a version that was trained on classes alone."
    )
    arousal: Dimension | None
    dominance: Dimension | None
    emotion: dict[str, float] | None = Field(description="Probability of each class; null without classes.")
    time_course: list[Window] | None
    speaker: Speaker
    transcript: Transcript | None
    semantics: SemanticsUsed
    explanation: Explanation
    timing_ms: dict[str, float]


class LoadFailure(Model):
    """A version that the alias names and that could not be loaded; the service keeps the one that it has."""

    version: str | None
    message: str
    attempts: int


class ModelStatus(Model):
    """The reply to GET /v1/model."""

    name: str
    alias: str
    version: str | None
    scale: Scale | None
    level: float | None = Field(description="Nominal coverage of the intervals.")
    classes: list[str]
    stage_fingerprints: dict[str, str]
    transcripts: dict[str, str] = Field(
        description="Sources of words that the version knows, by the fingerprint of their stage."
    )
    recogniser: str
    semantics: str | None = Field(description="What writes its descriptions: cues, text_llm or audio_llm.")
    failure: LoadFailure | None


class ErrorDetail(Model):
    """The error: a stable code, a message, and a remedy."""

    code: str
    message: str
    remedy: str | None
    kind: str | None = Field(
        None, description="For undecodable_audio: truncated_audio, silent_audio, non_finite_samples …"
    )


class ErrorReply(Model):
    """The body of every reply that is not a score."""

    error: ErrorDetail
    request_id: str
