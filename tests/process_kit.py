"""Processes that a test starts: a server is waited for, a victim is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest


def until_ready(url: str, server: subprocess.Popen[bytes], log: Path, limit_s: float = 240) -> None:
    """Wait until a server answers 200; fails with its log where it ends before, or takes longer."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)  # between two looks at a server that another process starts
    pytest.fail(f"not ready: {log.read_text()}")


def stop_at(code: str, *arguments: str, line: str, with_signal: signal.Signals) -> tuple[int, str]:
    """Run code that prints a line and reads one: in between, send it a signal.

    Returns:
        Its exit status, and what it wrote to stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{line}\n"
        process.send_signal(with_signal)
        _, errors = process.communicate("go on\n", timeout=240)
    finally:
        process.kill()
        process.wait()
    return process.returncode, errors


def kill_when_stored(code: str, *arguments: str, cwd: Path | None = None) -> None:
    """Run code in a separate process, and kill it where it has printed `stored` and waits."""
    victim = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "stored\n"
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
