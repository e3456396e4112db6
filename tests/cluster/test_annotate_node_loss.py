"""annotate on a cluster that loses a node under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from annotate_kit import CHEAP_STAGES, assert_same_value, by_hand, config_for, make_corpus

from emoray.config import to_yaml
from emoray.lake.tables import Lake
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.annotate.summary import Counts

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

CLIPS = 40
#: A separate cluster, whose death disturbs no other test: takes its driver's arguments, kills a node's raylet once
#: the first outcomes are there, and ends as the driver ends.
SCRIPT = """
import contextlib, os, random, subprocess, sys, threading
from pathlib import Path
from benchmarks.chaos.cluster import Nodes, use_token
with contextlib.ExitStack() as outer, contextlib.ExitStack() as stack:
    use_token(outer)
    nodes = Nodes(stack)
    driver = subprocess.Popen(
        [sys.executable, "-c", sys.argv[1], sys.argv[2]], text=True, env={**os.environ, "RAY_ADDRESS": nodes.address}
    )
    tick = threading.Event()
    while driver.poll() is None and not any(Path(sys.argv[3]).rglob("*.parquet")):
        tick.wait(0.02)
    nodes.kill("raylet", driver, set(), random.Random(0))
    sys.exit(driver.wait(240))
"""
DRIVER = """
import json, sys
from annotate_kit import leave_out_encoder
from emoray.config import load
from pytest import MonkeyPatch
from emoray_jobs.annotate import job as annotate
from emoray_jobs.config import Config
leave_out_encoder(MonkeyPatch())
result = annotate.run(load(Config, file=sys.argv[1]))
print(json.dumps({"counts": vars(result.counts)}))
"""


def test_a_node_that_dies_costs_nothing_but_time(tmp_path):
    config = config_for(tmp_path / "lake")
    make_corpus(config.lake.root, CLIPS)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    root = str(Path(__file__).parents[2])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "EMORAY_"))}
    environment = {**clean, "PYTHONPATH": os.pathsep.join([root, clean["PYTHONPATH"]])}
    command = [sys.executable, "-c", SCRIPT, DRIVER, str(file), str(tmp_path / "lake" / "annotations")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["counts"] == vars(Counts(CLIPS, CLIPS, 0, 0, {}))
    lake = Lake(config.lake)
    state = annotation_state(lake, config.corpus.name, config.annotate)
    expected = by_hand(config, state)
    for stage in CHEAP_STAGES:
        table = lake.stage_outcomes(stage, state.fingerprints[stage]).sort("utterance_id").collect()
        assert table["utterance_id"].to_list() == [f"u{number:03d}" for number in range(CLIPS)]
        for row in table.iter_rows(named=True):
            name = row["utterance_id"]
            assert_same_value(row["value"], expected[stage][name].value, f"{stage} {name}")
