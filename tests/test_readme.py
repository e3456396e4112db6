"""The commands of README and of the guides, run as they stand: on a corpus of our making, training cut to one epoch.

What stands in blocks of `sh` is run; other blocks are parsed by tests/docs/test_commands.py. The short form of `make
demo` is run by tests/emoray_jobs/test_demo.py, the protocol's commands by tests/emoray_jobs/protocol, `make test` is
what runs this.
"""

from __future__ import annotations

import csv
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import ray
import torch
from docs_kit import GUIDES, README, blocks, commands
from process_kit import until_ready
from public_checkpoints_kit import SMALL, write_wav2vec2_dim

from emoray.config import merge, read_preset
from emoray.corpora import CorpusConfig, build
from emoray.lake.tables import Lake, LakeConfig

pytestmark = pytest.mark.long

SPEAKERS = {"train": 4, "dev": 2, "gate": 2, "test": 2}
#: Exit status of a promotion that the gate refuses, as it may after one epoch.
REFUSED = 3


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: recordings, a table of them with its own names, and the README's configuration file."""
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
    for name in ("recording.wav", "my.wav"):
        (folder / name).symlink_to(table["audio_uri"][0].as_py())
    (folder / "my.yaml").write_text(blocks(README, "yaml")[0])
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


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hub's cache, as if the README's checkpoint had been fetched: its files, a small network's random weights."""
    source = commands(README, "sh")[0].split()[2]
    repository = tmp_path_factory.mktemp("hub") / f"models--{source.replace('/', '--')}"
    torch.manual_seed(5)
    write_wav2vec2_dim(repository / "snapshots" / "0", **SMALL)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    return {"HF_HUB_CACHE": str(repository.parent), "HF_HUB_OFFLINE": "1"}


def run(lines: Sequence[str], desk: Path, environment: dict[str, str], done: list[str]) -> None:
    """Run command lines in a user's folder; each must end well. `done` gets their verbs."""
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "emoray", line
        if words[1] == "serve":
            _serve(words, desk, environment)
        else:
            ran = subprocess.run(words, cwd=desk, env=environment, capture_output=True, text=True, timeout=600)
            fine = (0, REFUSED) if words[1] == "promote" else (0,)
            assert ran.returncode in fine, f"{line}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
            assert "Traceback" not in ran.stderr, line
            assert ran.stdout.strip(), line
        done.append(words[1])


@pytest.fixture(scope="module")
def readme_done(desk: Path, environment: dict[str, str], hub: dict[str, str]) -> list[str]:
    """The README's commands, run in its order."""
    done: list[str] = []
    run(commands(README, "sh"), desk, environment | hub, done)
    return done


@pytest.mark.timeout(1200)
def test_the_readmes_commands(readme_done: list[str]):
    assert readme_done == ["import-model", "score", "corpus", "annotate", "train", "train", "promote", "score"]


@pytest.mark.timeout(900)
def test_the_guides_commands_on_what_the_readme_made(readme_done: list[str], desk: Path, environment: dict[str, str]):
    done: list[str] = []
    for guide in GUIDES:
        run(commands(guide, "sh"), desk, environment, done)
    assert {"corpus", "annotate", "evaluate", "serve", "score"} <= set(done)


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
