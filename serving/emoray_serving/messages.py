"""What the deployments send each other. Light to import: the gateway needs neither torch nor MLflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.errors import EmorayError
from emoray.scoring.score import RequestedSemantics, Score
from emoray.stages.base import Row
from emoray_serving.schemas import ModelInfo

#: Variants of a version's stages: as it was fitted; for a transcript that is given; for one that must be recognised.
OWN = "own"
GIVEN = "given"
RECOGNISED = "recognised"


@dataclass(frozen=True)
class StageJob:
    """One request's row, to be annotated as `version` wants it.

    Attributes:
        version: Version of the registered model.
        variant: Which of the version's stage sets (the transcriber has one for given and one for missing transcripts).
        wanted: Names of the stages to run.
        row: The utterance with its waveform and the stages' values so far.
    """

    version: str
    variant: str
    wanted: tuple[str, ...]
    row: Row

    def failed(self, reason: str) -> Annotated:
        """The result of a job that was not done."""
        return Annotated(errors=dict.fromkeys(self.wanted, reason))


@dataclass(frozen=True)
class Annotated:
    """What became of a row.

    Attributes:
        values: Value by stage name, where there is one.
        fingerprints: Fingerprint of each of these.
        errors: Message by stage name, where there is none.
    """

    values: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreJob:
    """One clip to score.

    Attributes:
        version: Version whose stages made the values; the current one scores if it is gone, or if this is None.
        samples: float32 (S,), mono, 16 kHz.
        semantics: How much of the values may be used.
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
    """What became of a job: a score and the version it is by, or an error."""

    model: ModelInfo | None = None
    score: Score | None = None
    error: EmorayError | None = None
