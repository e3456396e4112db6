"""Protocol of a contender: a process that gets ready, then does its work once per line of its input.

Standard library only: peers run in their own environments, where this is the only file of the project.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def task() -> dict[str, Any]:
    """The task: the JSON file that the command line names."""
    return dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def serve(
    work: Callable[[], Any],
    reset: Callable[[], Any] = lambda: None,
    found: Callable[[], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Answer every line of the input with the seconds that `work` took.

    A line is `reset`, or `again` to continue from the end of the last run. The results are written to a file after the
    clock has stopped; the output of libraries goes to standard error.

    Args:
        work: The work that is timed.
        reset: Undoes the work before the clock starts, if the line is `reset`.
        found: Returns the results after the clock has stopped; by default they are what `work` returns.
        clock: Seconds; `time.process_time` for CPU time.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    results = Path(f"{sys.argv[1]}.{os.getpid()}.results")
    channel.write("{}\n")
    channel.flush()
    for line in sys.stdin:
        if line.strip() == "reset":
            reset()
        began = clock()
        value = work()
        seconds = clock() - began
        results.write_text(json.dumps(found() if found else value), encoding="utf-8")
        channel.write(json.dumps({"seconds": seconds, "results": str(results)}) + "\n")
        channel.flush()
