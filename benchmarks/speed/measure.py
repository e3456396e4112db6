"""Measurements: contenders that run in turn, each in its own process, and ratios of their times."""

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

EMORAY = (sys.executable, "-m", "benchmarks.speed.emoray_contenders")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_S = 0.5


@dataclass(frozen=True)
class Reading:
    """One timed run of a contender.

    Attributes:
        seconds: Its time.
        peak_bytes: Largest private memory of the contender's processes together, sampled twice a second; shared
            memory, such as Ray's object store, does not count.
        results: Its results.
    """

    seconds: float
    peak_bytes: int
    results: Any


@dataclass(frozen=True)
class Measurement:
    """A ratio over several rounds.

    Attributes:
        name: Key in floors.yaml.
        what: Description, with the unit.
        ratios: One per round.
        seconds: Times of each contender, round by round.
        peak_bytes: Largest memory of each contender.
        note: Further findings: equality of the results, absolute figures.
    """

    name: str
    what: str
    ratios: list[float]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def median(self) -> float:
        """The figure that is quoted and compared with the floor."""
        return statistics.median(self.ratios)

    def record(self) -> dict[str, Any]:
        """The measurement as JSON."""
        return dataclasses.asdict(self) | {"median": self.median}


class Contender:
    """A process that gets ready and then runs on command (benchmarks/speed/peers/protocol.py). A context manager.

    Args:
        name: Its name in the tables.
        command: Command that starts it; the path of a file with `task` is appended.
        task: Its task.
        folder: Folder of its files and its log.

    Attributes:
        name: Its name.
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
        """One run, from scratch unless `reset` is false.

        Raises:
            RuntimeError: The process ended instead.
        """
        with _Peak(self.pid) as peak:
            self._send("reset" if reset else "again")
            answer = self._answer()
        results = json.loads(Path(answer["results"]).read_text(encoding="utf-8"))
        return Reading(answer["seconds"], peak.bytes, results)

    def kill_after(self, seconds: float) -> Reading:
        """Begin a run from scratch, and send SIGKILL to the process and all that it started after some seconds.

        Raises:
            RuntimeError: It had finished by then.
        """
        with _Peak(self.pid) as peak:
            self._send("reset")
            began = time.monotonic()
            if select.select([self._process.stdout], [], [], seconds)[0]:
                raise RuntimeError(f"contender {self.name!r} had ended before it was to be killed")
            for pid in descendants(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        return Reading(time.monotonic() - began, peak.bytes, None)

    def _send(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-4000:]
            raise RuntimeError(f"contender {self.name!r} ended with status {self._process.wait()}:\n{tail}")
        return dict(json.loads(line))


def rounds(contenders: Sequence[Contender], count: int, show: Callable[[str], None]) -> dict[str, list[Reading]]:
    """Run the contenders in turn, `count` times after a warm-up round that does not count.

    Every second round runs them in reverse, so that none always follows the same one.
    """
    readings: dict[str, list[Reading]] = {contender.name: [] for contender in contenders}
    for number in range(count + 1):
        for contender in contenders if number % 2 else reversed(contenders):
            reading = contender.run()
            if number:
                readings[contender.name].append(reading)
        now = {contender.name: readings[contender.name][-1].seconds for contender in contenders} if number else {}
        show(f"round {number}: " + (", ".join(f"{name} {seconds:.2f} s" for name, seconds in now.items()) or "warm-up"))
    return readings


def speed_ratio(
    name: str, what: str, readings: Mapping[str, Sequence[Reading]], ours: str, other: str, note: str = ""
) -> Measurement:
    """Speed of our contender over the other's, round by round."""
    pairs = zip(readings[ours], readings[other], strict=True)
    return Measurement(
        name=name,
        what=what,
        ratios=[theirs.seconds / mine.seconds for mine, theirs in pairs],
        seconds={name: [reading.seconds for reading in readings[name]] for name in (ours, other)},
        peak_bytes={
            contender: max(reading.peak_bytes for reading in readings[contender]) for contender in (ours, other)
        },
        note=note,
    )


class _Peak:
    """Samples the private memory of a process and its descendants while the context lasts."""

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
