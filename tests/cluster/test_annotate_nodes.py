"""annotate on a Ray cluster of three nodes that it joins by address."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from annotate_kit import CHEAP_STAGES, config_for, make_corpus, rows_written

from emoray.config import to_yaml
from emoray.lake import Lake
from emoray_jobs import annotate
from emoray_jobs.annotate_summary import Counts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CLIPS = 60
DRIVER = """
import json, sys
from annotate_kit import leave_out_encoder
from emoray.config import load
from pytest import MonkeyPatch
from emoray.lake import Lake
from emoray_jobs import annotate
from emoray_jobs.config import Config
leave_out_encoder(MonkeyPatch())
result = annotate.run(load(Config, file=sys.argv[1]))
print(json.dumps({"counts": vars(result.counts), "nodes": result.workforce.nodes}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of three nodes, and the environment of a client that knows their token."""
    token = tmp_path_factory.mktemp("client") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "EMORAY_"))}
    environment = {**clean, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    script = Path(__file__).parent / "three_nodes.py"
    nodes = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert nodes.stdout is not None
        yield json.loads(nodes.stdout.readline())["gcs"], environment
    finally:
        nodes.communicate(timeout=60)  # closes its standard input, which ends the cluster


def test_every_node_works_and_every_utterance_is_there_once(tmp_path, cluster):
    address, environment = cluster
    config = config_for(tmp_path / "lake", f"cluster.address={address}")
    make_corpus(config.lake.root, CLIPS)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, "-c", DRIVER, str(file)]
    driver = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert driver.returncode == 0, driver.stderr
    said = json.loads(driver.stdout.splitlines()[-1])
    assert said["counts"] == vars(Counts(CLIPS, CLIPS, 0, 0, {}))
    assert said["nodes"] == 3
    state = annotate.state(config, Lake(config.lake))
    for stage in CHEAP_STAGES:
        assert rows_written(config, stage, state.fingerprints[stage]) == [f"u{number:03d}" for number in range(CLIPS)]


def test_a_client_without_the_token_is_refused_in_one_line(tmp_path, cluster):
    address, environment = cluster
    other = tmp_path / "other"
    other.write_text(secrets.token_hex(32))
    config = config_for(tmp_path / "lake", f"cluster.address={address}")
    make_corpus(config.lake.root, 2)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, "-m", "emoray_jobs", "annotate", "--config", str(file)]
    refused = subprocess.run(
        command,
        env={**environment, "RAY_AUTH_TOKEN_PATH": str(other)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {address}: cannot join the Ray cluster")
    assert "RAY_AUTH_TOKEN_PATH" in last
    assert "Traceback" not in refused.stderr
