"""SIGTERM and Ctrl-C as a request: what is in hand is finished and kept, and then the command ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Which signal asked to stop: its name, for example SIGTERM, or None so far."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Have the first SIGTERM or SIGINT noted for the time of a block; the second does what it did before the block.

    A signal that was ignored before (a command in a script's background ignores Ctrl-C) stays so. Python lets only the
    main thread handle signals: in another one nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        restore()
        request.signal = signal.Signals(number).name
        # Not through sys.stderr: the signal may have come in the middle of a line that is being written there.
        os.write(2, f"{request.signal}: stopping after a checkpoint; once more ends at once\n".encode())

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
