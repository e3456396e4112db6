"""The time limit of a call into native code, in a separate process."""

from __future__ import annotations

import subprocess
import sys

from emoray.engines.deadline import EXIT_HUNG

# Sleep stands for native code that does not come back, in the process and in the one that it started.
CODE = """
import multiprocessing, sys, time
from emoray.engines.deadline import deadline

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(50,), daemon=True)
    child.start()
    print(child.pid, flush=True)
    with deadline(float(sys.argv[1]), "the engine"):
        time.sleep(float(sys.argv[2]))
    print("through")
"""


def run(tmp_path, limit_s, takes_s):
    script = tmp_path / "script.py"
    script.write_text(CODE)
    command = [sys.executable, str(script), str(limit_s), str(takes_s)]
    return subprocess.run(command, capture_output=True, text=True, timeout=45)


def test_a_process_that_hangs_gives_itself_up_with_its_children(tmp_path):
    # Returning at all means that the child, which holds the same pipes, is gone too.
    done = run(tmp_path, 0.3, 50)
    assert done.returncode == EXIT_HUNG
    assert "the engine hangs: no end after 0.3 s" in done.stderr
    assert "through" not in done.stdout


def test_one_that_ends_in_time_is_left_alone(tmp_path):
    done = run(tmp_path, 50, 0)
    assert done.returncode == 0
    assert done.stdout.endswith("through\n")
