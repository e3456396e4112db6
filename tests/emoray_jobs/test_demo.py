"""The demo as a newcomer runs it: in a separate process, from nothing, and again over what the first one left."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from emoray.config import load
from emoray_jobs.config import Config, options

pytestmark = pytest.mark.long


@dataclass
class Run:
    output: str
    seconds: float


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first(place):
    return run_short(place)


def run_short(place: Path) -> Run:
    """Run it in an empty environment but for what marks its processes; none of them may outlive it."""
    mark = uuid.uuid4().hex
    ours = re.compile("(?!RAY_worker_niceness)(RAY|MLFLOW|EMORAY)_")
    environ = {name: value for name, value in os.environ.items() if not ours.match(name)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "emoray_jobs", "demo", "--short", "--set", f"serve.http.port={port}"]
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=place, env={**environ, "DEMO_MARK": mark}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert _marked(mark) == []
    return Run(done.stdout, time.monotonic() - started)


def _marked(mark: str) -> list[str]:
    """Command lines of the living processes that were started with a mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_it_ends_with_a_score_a_report_and_what_to_do_next(first, place):
    for heading in (
        "corpus",
        "annotate",
        "train on sound alone",
        "train MSF-SER",
        "evaluate",
        "promote",
        "score one clip",
    ):
        assert re.search(rf"^\d/\d {heading}", first.output, re.MULTILINE), heading
    # Both models at every semantic level, against the ceiling.
    for row in ("audio alone", "audio + transcript", "ceiling"):
        assert row in first.output
    assert re.search(r"^(Promoted|Refused): version 2 of emoray-short", first.output, re.MULTILINE)
    assert re.search(r"valence\s+│\s+\d\.\d\d", first.output)
    for address in re.findall(r"^Report: (.+)$", first.output, re.MULTILINE):
        assert Path(address).is_file()
    assert (place / ".emoray" / "mlflow.db").is_file()
    assert "emoray serve --set tracking.model_name=emoray-short" in first.output
    peak = re.search(r"peak memory (\d+\.\d) GiB", first.output)
    assert peak
    assert 0.5 < float(peak[1]) < 10


def test_a_second_run_reuses_what_is_there(first, place):
    again = run_short(place)
    assert again.output.count("was finished before") == 2
    assert again.output.count("Scored before") == 1
    # Every stage reused every row.
    assert re.search(r"decode\s+│ \w+ │\s+0 │\s+136 │", again.output)
    assert again.seconds < 0.7 * first.seconds


def test_next_commands_name_what_differs_from_the_preset(tmp_path):
    usual = load(Config, environ={})
    assert options(usual) == ""
    elsewhere = load(Config, overrides=[f"lake.root={tmp_path}"], environ={})
    assert options(elsewhere) == f" --set lake.root={tmp_path}"
