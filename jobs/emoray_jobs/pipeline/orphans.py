"""Workers whose raylet is gone end themselves."""

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

    A worker that several calls may enter at a time outlives its raylet (Ray 2.60): its calls' results reach nobody, and
    the driver waits for them for ever. Only where the process ends do they count as lost, and come again. The first
    call counts; later ones do nothing.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), name="raylet-watch", daemon=True).start()


def _watch(raylet: int) -> None:
    while os.getppid() == raylet:
        time.sleep(CHECK_S)
    os._exit(EXIT_ORPHANED)
