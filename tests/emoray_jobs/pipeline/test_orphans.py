"""A worker whose raylet is killed does not go on alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

WORKER = """
import time
from emoray_jobs.pipeline.orphans import end_with_raylet
end_with_raylet()
print("ready", flush=True)
time.sleep(60)
"""
RAYLET = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_a_worker_ends_when_its_parent_is_killed():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    raylet = subprocess.Popen(
        [sys.executable, "-c", RAYLET, WORKER], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert raylet.stdout is not None
    assert raylet.stdout.readline() == "ready\n"
    raylet.send_signal(signal.SIGKILL)
    raylet.wait(10)
    started = time.monotonic()
    assert raylet.stdout.read() == ""  # the pipe closes when the worker, which holds it too, has ended
    assert time.monotonic() - started < 30
