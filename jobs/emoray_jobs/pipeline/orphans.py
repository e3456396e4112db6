"""Processes whose raylet is gone end themselves; Ray 2.60 was seen to leave workers of a killed raylet alive."""

from __future__ import annotations

import functools
import os
import threading
import time

CHECK_S = 1.0
EXIT_ORPHANED = 76


@functools.cache
def end_with_raylet() -> None:
    """Have this process, a worker that Ray started, end when the raylet that started it does.

    Otherwise its calls' results reach nobody, and the driver waits for them. Only where the process ends do they count
    as lost, and come again. Later calls do nothing; first calls from several threads at once may watch twice.
    """
    threading.Thread(target=_watch_parent, args=(os.getppid(),), name="raylet-watch", daemon=True).start()


def _watch_parent(raylet: int) -> None:
    while os.getppid() == raylet:
        time.sleep(CHECK_S)
    os._exit(EXIT_ORPHANED)
