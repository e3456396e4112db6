"""Real voices, where they are: beside the repository, never in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[5] / "shared"
NAMES = {"ravdess": "RAVDESS", "emodb": "EMO-DB"}


@pytest.fixture(scope="session")
def real_clips() -> Callable[[str], list[Path]]:
    """Clips of a corpus by name, in order; skips where it is absent."""

    def find(corpus: str) -> list[Path]:
        folder = SHARED / corpus
        paths = sorted([*folder.rglob("*.flac"), *folder.rglob("*.wav")])
        if not paths:
            pytest.skip(f"{NAMES[corpus]} is absent: ../shared/{corpus}")
        return paths

    return find
