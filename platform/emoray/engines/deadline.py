"""Time limits that hold for native code too: what hangs cannot be interrupted, so the process gives itself up."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_HUNG = 75


@contextlib.contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """End this process, and those that it started, if the block takes longer.

    A pool replaces a worker that dies and its rows are tried again; a service restarts its replica.

    Args:
        seconds: The limit.
        what: What the block does, for the log.
    """
    timer = threading.Timer(seconds, _give_up, (what, f"no end after {seconds:g} s"))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class StallLimit:
    """The same for something that several threads use: it ends this process if none of them gets any further.

    Args:
        seconds: Longest time without progress while a call is under way.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changed = threading.Condition()
        self._calls: list[str] = []
        self._progress_at = 0.0
        threading.Thread(target=self._watch, name="stall-limit", daemon=True).start()

    @contextlib.contextmanager
    def call(self, what: str) -> Iterator[None]:
        """A call is under way.

        Args:
            what: What it does, for the log.
        """
        with self._changed:
            self._calls.append(what)
            self._progress_at = time.monotonic()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._calls.remove(what)

    def progress(self) -> None:
        """A part of some call is done."""
        self._progress_at = time.monotonic()

    def _watch(self) -> None:
        with self._changed:
            while True:
                left_s = self._progress_at + self._seconds - time.monotonic()
                if not self._calls:
                    self._changed.wait()
                elif left_s > 0:
                    self._changed.wait(left_s)
                else:
                    _give_up("; ".join(self._calls), f"nothing done for {self._seconds:g} s")


def _give_up(what: str, why: str) -> NoReturn:
    log.critical("%s hangs: %s. This process gives itself up", what, why)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(EXIT_HUNG)
