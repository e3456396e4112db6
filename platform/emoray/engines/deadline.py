"""A time limit that holds for native code too: what hangs cannot be interrupted, so the process gives itself up."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator

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
    timer = threading.Timer(seconds, _give_up, (seconds, what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(seconds: float, what: str) -> None:
    log.critical("%s hangs: no end after %g s. This process gives itself up", what, seconds)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(EXIT_HUNG)
