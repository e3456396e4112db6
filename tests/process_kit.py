"""Processes that a test starts: a server is waited for, a victim is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]


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


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def vllm_server(model: str, log: Path) -> Iterator[str]:
    """vLLM's own server of a model, which it knows as `tiny`, started as the Makefile starts it; gives its address."""
    port = free_port()
    settings = "--served-model-name tiny --max-model-len 3072 --trust-request-chat-template"
    command = ["make", "-s", "vllm-serve", f"VENV={sys.prefix}", f"MODEL={model}", f"PORT={port}"]
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, f"SERVE_ARGS={settings}"],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until_ready(f"http://127.0.0.1:{port}/health", server, log, limit_s=800)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


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
