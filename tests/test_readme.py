"""The README's own commands, run as they stand: on a corpus of our making, with training cut to one epoch.

`make demo` in its short form is run by tests/emoray_jobs/test_demo.py, `make test` is what runs this.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import ray
from process_kit import until_ready

from emoray.config import load, merge, read_preset
from emoray.corpora import CorpusConfig, build
from emoray.lake.tables import Lake, LakeConfig
from emoray_jobs.config import Config

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPEAKERS = {"train": 4, "dev": 2, "gate": 2, "test": 2}

#: Needs a cluster: tests/cluster submits for real.
ELSEWHERE = ("emoray submit",)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.split(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("emoray ") and not line.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: recordings, a table of them with names of its own, and the README's configuration file."""
    folder = tmp_path_factory.mktemp("desk")
    lake = Lake(LakeConfig(root=str(folder / "made"), storage_options={}))
    synthetic = {"synthetic": {"speakers": SPEAKERS, "utterances_per_speaker": dict.fromkeys(SPEAKERS, 6)}}
    table = build(CorpusConfig.model_validate(merge(read_preset("laptop")["corpus"], synthetic)), lake, lambda *_: None)
    with (folder / "calls.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "text", "speaker_id", "val", "act", "dom"])
        for row in table.to_pylist():
            scores = [1 + 4 * row[name] for name in ("valence", "arousal", "dominance")]
            writer.writerow([row["audio_uri"], row["transcript"], row["speaker_id"], *scores])
    (folder / "recording.wav").symlink_to(table["audio_uri"][0].as_py())
    (folder / "my.yaml").write_text(blocks("yaml")[0])
    return folder


@pytest.fixture(scope="module")
def environment(ray_session: None) -> dict[str, str]:
    """A port that is free, little training, and the session's Ray: tests/emoray_jobs/test_demo.py starts its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "EMORAY_TRAIN__EPOCHS": "1",
        "EMORAY_LAUNCH__WORKERS": "0",  # in the command's own process: tests/emoray_jobs/test_demo.py starts two
        "EMORAY_SERVE__HTTP__PORT": str(port),
    }


def test_the_readme_shows_every_verb():
    shown = " ".join([*commands(), *re.findall(r"`(emoray [^`]*)`", README), *ELSEWHERE])
    for verb in (
        "corpus",
        "annotate",
        "train",
        "protocol",
        "evaluate",
        "promote",
        "rollback",
        "serve",
        "score",
        "submit",
        "doctor",
    ):
        assert f"emoray {verb}" in shown, verb


def test_every_configuration_it_shows_is_one(tmp_path: Path):
    for number, text in enumerate(blocks("yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        load(Config, file=path, environ={})  # a key or value that does not fit raises


@pytest.mark.timeout(900)
def test_the_commands_on_a_users_own_recordings(desk: Path, environment: dict[str, str]):
    done = []
    for line in commands():
        words = shlex.split(line)
        if words[1] == "serve":
            _serve(words, desk, environment)
        else:
            ran = subprocess.run(words, cwd=desk, env=environment, capture_output=True, text=True, timeout=600)
            assert ran.returncode == 0, f"{line}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
            assert "Traceback" not in ran.stderr, line
        done.append(words[1])
    assert {"corpus", "annotate", "train", "evaluate", "serve", "score"} <= set(done)


def _serve(words: list[str], desk: Path, environment: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{environment['EMORAY_SERVE__HTTP__PORT']}"
    log = desk / "serve.log"
    with log.open("w") as out:
        server = subprocess.Popen(words, cwd=desk, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            until_ready(f"{url}/readyz", server, log)
            sound = (desk / "recording.wav").read_bytes()
            reply = httpx.post(f"{url}/v1/score", content=sound, headers={"content-type": "audio/wav"}, timeout=60)
            assert reply.status_code == 200, reply.text
            assert 0 <= reply.json()["valence"]["value"] <= 1
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=90)
