"""Progress on what takes longer than two seconds, on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_S = 2.0
LINE_EVERY_S = 5.0
#: Without news a line still says how long the job has been at it: silence looks like a hang.
SILENCE_S = 5.0

#: Tells how far a job is: (done, total).
Advance = Callable[[int, int], None]


@contextlib.contextmanager
def track(what: str, unit: str = "") -> Iterator[Advance]:
    """Show how far a countable job is.

    Yields:
        A function to call with (done, total) whenever there is news; safe to call often.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as live:
            task = live.add_task(what, total=None)
            yield lambda done, total: live.update(task, completed=done, total=total)
        return
    with _Lines(what, unit) as lines:
        yield lines.advance


@contextlib.contextmanager
def spinner(what: str) -> Iterator[None]:
    """Show that something of unknown length is under way: a spinner on a terminal, one line elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(f"{what} …"):
            yield
        return
    message(f"{what} …")
    with _Lines(what):
        yield


class _Lines:
    """Plain progress lines: none for what is over quickly, then one every few seconds and one at the end."""

    def __init__(self, what: str, unit: str = "") -> None:
        self.what = what
        self.unit = f" {unit}" if unit else ""
        self.started = time.monotonic()
        self.said = self.started + QUIET_S - LINE_EVERY_S
        self.state = (0, 0)
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> _Lines:
        self._watch.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self._over.set()
        self._watch.join()
        if not failed and self.state[1] and time.monotonic() - self.started >= QUIET_S:
            self._say()

    def advance(self, done: int, total: int) -> None:
        self.state = (done, total)
        if time.monotonic() - self.said >= LINE_EVERY_S:
            self._say()

    def _break_silence(self) -> None:
        while not self._over.wait(max(0.1, max(self.said, self.started) + SILENCE_S - time.monotonic())):
            if time.monotonic() - max(self.said, self.started) >= SILENCE_S:
                self._say()

    def _say(self) -> None:
        done, total = self.state
        self.said = time.monotonic()
        reached = f"{done:,} of {total:,}{self.unit}, " if total else ""
        message(f"{self.what}: {reached}{self.said - self.started:.0f} s")


def message(text: str) -> None:
    """One line of news."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
