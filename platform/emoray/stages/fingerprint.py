"""Fingerprints: a stage's outcomes are stored under this name, so that stale ones are never read."""

from __future__ import annotations

from collections.abc import Mapping

from emoray.digest import digest
from emoray.stages.base import Stage


def fingerprint(stage: Stage, inputs: Mapping[str, str]) -> str:
    """Hash of a stage, its declared version, its options and the fingerprints of all that it reads.

    Hardware, batch sizes, precision and the commit are not in it; no weights are loaded. `inputs` holds the
    fingerprint of each stage in `requires` and `uses`, and `norms` for a stage that needs them.
    """
    return digest({"stage": stage.name, "version": stage.version, "options": stage.options(), "inputs": dict(inputs)})
