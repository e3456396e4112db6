"""The example clip of every version: an input that needs no file, and what a version is recognised by."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from emoray.audio.io import AUDIO_HZ, decode
from emoray.errors import RegistryError
from emoray.schema import DIMENSIONS

if TYPE_CHECKING:
    from emoray.scoring.scorer import Scorer

#: Tag: scores of the clip when the version was registered, as JSON.
TAG = "emoray.example"
#: Other machines round otherwise; other weights differ by more.
TOLERANCE = 2e-3


def wav() -> bytes:
    """A third of a second of a falling tone: a valid input that needs no file."""
    time_s = np.arange(round(0.3 * AUDIO_HZ)) / AUDIO_HZ
    tone = 0.2 * np.sin(2 * np.pi * (200 * time_s - 60 * time_s**2))
    file = io.BytesIO()
    soundfile.write(file, tone, AUDIO_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()


def scores(scorer: Scorer) -> dict[str, float]:
    """The dimensions of the example clip, scored from its sound alone: what a version is recognised by."""
    from emoray.scoring.score import ScoreRequest

    samples = decode(wav(), scorer.audio.model_copy(update={"min_duration_s": 0.0})).samples
    (score,) = scorer.score([ScoreRequest(samples, semantics="none", time_course=False)])
    return {name: getattr(score, name).value for name in DIMENSIONS}


def check(scorer: Scorer, version: str, tags: Mapping[str, str], source: str) -> None:
    """Compare a loaded version with what it scored when it was registered.

    Args:
        tags: Its tags; one from before there was this one passes.
        source: Where its files are.

    Raises:
        AudioError: It has no finite score.
        RegistryError: It scores otherwise (`changed_scores`): its files or a library changed.
    """
    recorded: dict[str, float] = json.loads(tags.get(TAG, "{}"))
    found = scores(scorer)
    apart = {name: abs(found[name] - value) for name, value in recorded.items()}
    if apart and max(apart.values()) > TOLERANCE:
        name = max(apart, key=lambda one: apart[one])
        raise RegistryError(
            f"version {version} scores its example as {name} {found[name]:.4f}, and scored it as"
            f" {recorded[name]:.4f} when it was registered",
            where=source,
            remedy="Restore its files and the packages that it pins, or promote another version",
            kind="changed_scores",
        )
