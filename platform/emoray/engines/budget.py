"""How long a caller can still wait: when that time is over, engines drop what they were asked and say so."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

from emoray.errors import TransientError

#: Reason for what did not come in time, as callers of the service read it.
LATE = "the budget ran out before it was ready"

_ends_at: ContextVar[float | None] = ContextVar("ends_at", default=None)


class OutOfTimeError(TransientError):
    """A question that the engine had no time left to answer: neither the row's fault nor the engine's.

    Args:
        last: What the engine said last, if it said anything.
    """

    def __init__(self, last: str | None = None) -> None:
        super().__init__(LATE if last is None else f"{LATE}; the engine said: {last}", kind="out_of_time")


@contextlib.contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Bound the time of all questions that are asked inside, in this thread.

    Args:
        seconds: Time from now, in seconds; nothing is asked if it is not above 0.
    """
    before = _ends_at.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends_at.reset(before)


def left_s() -> float | None:
    """Seconds that are left, 0 if the time is over; None outside of a budget."""
    ends_at = _ends_at.get()
    return None if ends_at is None else max(0.0, ends_at - time.monotonic())
