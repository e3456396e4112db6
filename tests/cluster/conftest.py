"""A Ray cluster of three nodes for the tests of a file."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

OURS = ("RAY_", "AWS_", "EMORAY_", "MLFLOW_", "PYTHONUNBUFFERED")


#: What spares the processor: two files of tests share a small machine.
SPARING = {
    "RAY_worker_niceness": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "10000",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Nodes:
    """A cluster, and the environment of a client that knows its token; the nodes know nothing but the token."""

    dashboard: str
    gcs: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes that end with the file's tests: even idle they take a good part of a small machine."""
    token = tmp_path_factory.mktemp("client") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment = {**clean, **SPARING, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    script = Path(__file__).parent / "three_nodes.py"
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        yield Nodes(addresses["dashboard"], addresses["gcs"], environment)
    finally:
        process.communicate(timeout=60)  # closes its standard input, which ends the cluster
