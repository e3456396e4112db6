"""Clocks that batches share: what those take that run at the same time adds up to the time that passes."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SharedClock:
    """A clock of a process over `now`, in seconds: while n batches run, each is charged an n-th of the time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._running = 0
        self._share_s = 0.0  # what a batch that ran all the time would have been charged
        self._read_at = now()

    def start(self) -> float:
        """A batch starts; returns the argument for `stop`."""
        with self._lock:
            self._advance()
            self._running += 1
            return self._share_s

    def stop(self, started: float) -> float:
        """The batch ends; returns the seconds that it is charged."""
        with self._lock:
            self._advance()
            self._running -= 1
            return self._share_s - started

    def _advance(self) -> None:
        now = self._now()
        if self._running:
            self._share_s += (now - self._read_at) / self._running
        self._read_at = now
