"""Fingerprints: the name under which a stage's outcomes are kept, and by which stale ones are never read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from emoray.stages.base import Stage


def fingerprint(stage: Stage, inputs: Mapping[str, str]) -> str:
    """Hash of a stage, its declared version, its options and the fingerprints of all that it reads.

    Hardware, batch sizes, precision and the commit are not in it.

    Args:
        stage: The stage; no weights are loaded.
        inputs: Fingerprint of each stage in `requires` and `uses`, and `norms` for a stage that needs them.

    Returns:
        16 hexadecimal characters.
    """
    document = {
        "stage": stage.name,
        "version": stage.version,
        "options": stage.options(),
        "inputs": dict(inputs),
    }
    text = json.dumps(document, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
