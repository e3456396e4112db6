"""annotate on a Ray cluster of three nodes that it joins by address."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

import pytest
from annotate_kit import CHEAP_STAGES, config_for, make_corpus, rows_written

from emoray.config import to_yaml
from emoray.lake import Lake
from emoray_jobs import annotate
from emoray_jobs.annotate_summary import Counts

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

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


def test_every_node_works_and_every_utterance_is_there_once(tmp_path, nodes):
    config = config_for(tmp_path / "lake", f"cluster.address={nodes.gcs}")
    make_corpus(config.lake.root, CLIPS)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, "-c", DRIVER, str(file)]
    driver = subprocess.run(command, env=nodes.environment, capture_output=True, text=True, timeout=240, check=False)
    assert driver.returncode == 0, driver.stderr
    said = json.loads(driver.stdout.splitlines()[-1])
    assert said["counts"] == vars(Counts(CLIPS, CLIPS, 0, 0, {}))
    assert said["nodes"] == 3
    state = annotate.state(config, Lake(config.lake))
    for stage in CHEAP_STAGES:
        assert rows_written(config, stage, state.fingerprints[stage]) == [f"u{number:03d}" for number in range(CLIPS)]


def test_a_client_without_the_token_is_refused_in_one_line(tmp_path, nodes):
    other = tmp_path / "other"
    other.write_text(secrets.token_hex(32))
    config = config_for(tmp_path / "lake", f"cluster.address={nodes.gcs}")
    make_corpus(config.lake.root, 2)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, "-m", "emoray_jobs", "annotate", "--config", str(file)]
    refused = subprocess.run(
        command,
        env={**nodes.environment, "RAY_AUTH_TOKEN_PATH": str(other)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {nodes.gcs}: cannot join the Ray cluster")
    assert "RAY_AUTH_TOKEN_PATH" in last
    assert "Traceback" not in refused.stderr
