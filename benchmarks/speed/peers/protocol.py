"""How a measured side is driven: a process that gets ready, then does its work once per line that it is sent.

Standard library only: peers run in environments of their own, where this file is all they see of the project.
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
    """What is to be done: the JSON file that the command line names."""
    return dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def serve(
    work: Callable[[], Any],
    reset: Callable[[], Any] = lambda: None,
    found: Callable[[], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Answer every line with the seconds that `work` took, until there are no more lines.

    A line says `reset`, or `again` to go on from where the last run ended.
    The results go to a file once the clock has stopped; what libraries print goes to standard error.

    Args:
        work: What is timed.
        reset: Undoes it, before the clock starts, where the line says so.
        found: Gives the results, after the clock has stopped; by default they are what `work` returns.
        clock: Seconds; `time.process_time` for those that a core was busy.
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
