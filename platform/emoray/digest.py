"""The one hash of plain values: fingerprints, hashes of runs, corpora and reports."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any, characters: int = 16) -> str:
    """First hexadecimal characters of the SHA-256 of a JSON value, keys sorted.

    Raises:
        ValueError: A number in it is NaN or infinite.
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:characters]
