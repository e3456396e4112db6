"""Messages between the deployments. Light to import: the gateway needs neither torch nor MLflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.errors import EmorayError
from emoray.scoring.score import RequestedSemantics, Score
from emoray.stages.base import Row
from emoray_serving.http.schemas import ModelInfo

#: Variants of a version's stages: as it was fitted; aligning a given transcript; recognising a missing one.
AS_FITTED, ALIGN, RECOGNISE = "as_fitted", "align", "recognise"


@dataclass(frozen=True)
class StageJob:
    """One request's row, to be annotated by a version's stages.

    Attributes:
        variant: Which of the version's stage sets: `AS_FITTED`, `ALIGN` or `RECOGNISE`.
        wanted: Names of the stages to run.
        row: The utterance with the stages' values so far, and its waveform where a stage reads it.
        budget_s: Time that the request still has, in seconds; None without a limit.
    """

    version: str
    variant: str
    wanted: tuple[str, ...]
    row: Row
    budget_s: float | None = None

    def failed(self, reason: str) -> Annotated:
        """The result of a job that was not done, with the reason."""
        return Annotated(errors=dict.fromkeys(self.wanted, reason))


@dataclass(frozen=True)
class Annotated:
    """The result of a stage job.

    Attributes:
        values: Value by stage name.
        fingerprints: Fingerprint of each value.
        errors: Message by name of the stages without a value.
    """

    values: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreJob:
    """One clip to score.

    Attributes:
        version: Version whose stages computed the values. If it is not loaded, or None, the current one scores.
        samples: float32 (S,), mono, 16 kHz.
        speaker_id: Speaker, if known.
        values: Stage values by stage name.
        fingerprints: Their fingerprints.
        time_course: Whether windows are scored too.
    """

    version: str | None
    samples: npt.NDArray[np.float32]
    semantics: RequestedSemantics
    speaker_id: str | None
    values: dict[str, Any]
    fingerprints: dict[str, str]
    time_course: bool


@dataclass(frozen=True)
class Scored:
    """The result of a score job: a score and its version, or an error."""

    model: ModelInfo | None = None
    score: Score | None = None
    error: EmorayError | None = None
