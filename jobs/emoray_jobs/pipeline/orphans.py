"""Processes whose raylet is gone end themselves; Ray 2.60 was seen to leave workers of a killed raylet alive."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator

from emoray_jobs.progress import message

CHECK_S = 1.0
DRIVER_CHECK_S = 5.0
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


@contextlib.contextmanager
def ending_with_own_node() -> Iterator[None]:
    """End this process, a driver, with an error if the node that connects it to the cluster dies during the block.

    Not seen in a run yet, and no test holds it (docs/decisions/0011).
    """
    import ray

    own, over = ray.get_runtime_context().get_node_id(), threading.Event()

    def watch() -> None:
        while not over.wait(DRIVER_CHECK_S):
            if any(node["NodeID"] == own and not node["Alive"] for node in ray.nodes()):
                message("error: the Ray node of this process died. Run the same command again: what is done is kept")
                os._exit(1)

    thread = threading.Thread(target=watch, name="node-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
