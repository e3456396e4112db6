"""Fingerprints: a stage's outcomes are stored under this name, so that stale ones are never read."""

from __future__ import annotations

from collections.abc import Mapping

from emoray.digest import digest
from emoray.stages.base import WAVEFORM, Stage


def fingerprint(stage: Stage, inputs: Mapping[str, str]) -> str:
    """Hash of a stage, its declared version, its options and the fingerprints of all that it reads.

    Hardware, batch sizes, precision and the commit are not in it; no weights are loaded. `inputs` holds the
    fingerprint of each stage in `requires` and `uses`, and `norms` for a stage that needs them.
    """
    return digest({"stage": stage.name, "version": stage.version, "options": stage.options(), "inputs": dict(inputs)})


def chained_fingerprint(stage: Stage, known: Mapping[str, str], norms_hash: str | None) -> str:
    """Fingerprint of a stage of a chain, given the `known` ones of the stages before it."""
    names = {"decode" if name == WAVEFORM else name for name in (*stage.requires, *stage.uses)}
    inputs = {name: known[name] for name in sorted(names)}
    if stage.needs_norms:
        assert norms_hash is not None
        inputs["norms"] = norms_hash
    return fingerprint(stage, inputs)
