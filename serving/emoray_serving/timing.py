"""Timing of a request's parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


def since_ms(started: float) -> float:
    """Milliseconds since a moment of `time.perf_counter`."""
    return round((time.perf_counter() - started) * 1000, 2)


@contextmanager
def timed(timing_ms: dict[str, float], part: str) -> Iterator[None]:
    """Record the duration of a block under the name of a part."""
    started = time.perf_counter()
    yield
    timing_ms[part] = since_ms(started)
