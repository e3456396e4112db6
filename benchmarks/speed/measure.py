"""What every measurement shares: sides that run in turn, each in a process of its own, and ratios of their times."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.proc import descendants

OWN = (sys.executable, "-m", "benchmarks.speed.emoray_contenders")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_S = 0.5


@dataclass(frozen=True)
class Reading:
    """One timed run of a side.

    Attributes:
        seconds: Its time.
        peak_bytes: Private memory of the side's processes together (shared memory, as of Ray's object store, left out),
            the largest of what was seen twice a second.
        results: What it found.
    """

    seconds: float
    peak_bytes: int
    results: Any


@dataclass(frozen=True)
class Measurement:
    """A ratio over several rounds.

    Attributes:
        name: Key in floors.yaml.
        what: In words, with the unit.
        ratios: One per round.
        seconds: Times of each side, round by round.
        peak_bytes: Most memory that each side took.
        note: What else was seen: equality of the results, absolute figures.
    """

    name: str
    what: str
    ratios: list[float]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def median(self) -> float:
        """What is quoted and held against the floor."""
        return statistics.median(self.ratios)

    def record(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return dataclasses.asdict(self) | {"median": self.median}


class Contender:
    """A process that gets ready and does its work when told (benchmarks/speed/peers/protocol.py). A context manager.

    Args:
        name: What it is called in the tables.
        command: What starts it; the file that holds `task` is put behind.
        task: What it is told.
        folder: For its files, its log among them.

    Attributes:
        name: What it is called.
        pid: Its process.
    """

    def __init__(self, name: str, command: Sequence[str], task: Mapping[str, Any], folder: Path) -> None:
        self.name = name
        stem = name.replace(" ", "-")
        path = folder / f"{stem}.json"
        path.write_text(json.dumps(task), encoding="utf-8")
        self._log = folder / f"{stem}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        """Wait until it is ready."""
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self, *, reset: bool = True) -> Reading:
        """One run, from nothing unless `reset` is false.

        Raises:
            RuntimeError: The process ended instead.
        """
        with _Peak(self.pid) as peak:
            self._tell("reset" if reset else "again")
            answer = self._answer()
        results = json.loads(Path(answer["results"]).read_text(encoding="utf-8"))
        return Reading(answer["seconds"], peak.bytes, results)

    def kill_after(self, seconds: float) -> Reading:
        """Begin a run from nothing, and SIGKILL the process and all that it started so many seconds later.

        Raises:
            RuntimeError: It had finished by then.
        """
        with _Peak(self.pid) as peak:
            self._tell("reset")
            began = time.monotonic()
            if select.select([self._process.stdout], [], [], seconds)[0]:
                raise RuntimeError(f"side {self.name!r} was done, or dead, before it was to be killed")
            for pid in descendants(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        return Reading(time.monotonic() - began, peak.bytes, None)

    def _tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-4000:]
            raise RuntimeError(f"side {self.name!r} ended with status {self._process.wait()}:\n{tail}")
        return dict(json.loads(line))


def rounds(sides: Sequence[Contender], count: int, show: Callable[[str], None]) -> dict[str, list[Reading]]:
    """Run the sides in turn, `count` times and once before, to warm up, which is not counted.

    Every second round runs them in reverse, so that none always comes after the same one.
    """
    readings: dict[str, list[Reading]] = {side.name: [] for side in sides}
    for number in range(count + 1):
        for side in sides if number % 2 else reversed(sides):
            reading = side.run()
            if number:
                readings[side.name].append(reading)
        now = {side.name: readings[side.name][-1].seconds for side in sides} if number else {}
        show(f"round {number}: " + (", ".join(f"{name} {seconds:.2f} s" for name, seconds in now.items()) or "warm-up"))
    return readings


def against(
    name: str, what: str, readings: Mapping[str, Sequence[Reading]], ours: str, other: str, note: str = ""
) -> Measurement:
    """How many times as fast as the other side ours is, round by round."""
    pairs = zip(readings[ours], readings[other], strict=True)
    return Measurement(
        name=name,
        what=what,
        ratios=[theirs.seconds / own.seconds for own, theirs in pairs],
        seconds={side: [reading.seconds for reading in readings[side]] for side in (ours, other)},
        peak_bytes={side: max(reading.peak_bytes for reading in readings[side]) for side in (ours, other)},
        note=note,
    )


class _Peak:
    """Watches the private memory of a process and all below it while the context lasts."""

    def __init__(self, root: int) -> None:
        self.bytes = 0
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, sum(map(_private_bytes, descendants(self._root))))
            if self._done.wait(SAMPLE_S):
                return


def _private_bytes(pid: int) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    except OSError:
        return 0  # it has ended
    return (int(resident) - int(shared)) * PAGE_BYTES
