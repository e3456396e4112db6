"""A real Ray cluster of three nodes with a token: annotate joins it by address, `emoray submit` sends it jobs.

One file, so that the cluster ends with its last test: even idle it takes a good part of a small machine.
"""

from __future__ import annotations

import json
import logging
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import polars as pl
import pytest
from annotate_kit import CHEAP_STAGES, config_for, make_corpus, rows_written
from moto.server import ThreadedMotoServer
from ray.job_submission import JobSubmissionClient

from emoray import config as settings
from emoray.config import to_yaml
from emoray.lake.tables import Lake
from emoray.registry import tracking
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.annotate.summary import Counts
from emoray_jobs.config import Config
from emoray_jobs.submit import job as submit

pytestmark = [pytest.mark.long, pytest.mark.timeout(420)]

BUCKET = "tables"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
SMALL = """
corpus:
  name: small
  synthetic:
    speakers: {{train: 4, dev: 2, gate: 2, test: 2}}
    utterances_per_speaker: {{train: 4, dev: 4, gate: 4, test: 4}}
lake:
  root: s3://{bucket}/emoray
tracking:
  uri: sqlite:///{folder}/mlflow.db
  artifact_root: {folder}/artifacts
annotate:
  flush_rows: 8
model:
  width: 32
train:
  epochs: 1
launch:
  workers: 2
submit:
  address: {address}
  python: {python}
  pass_env: [AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION]
  env: {{OMP_NUM_THREADS: "1"}}
"""


CLIPS = 60
DRIVER = """
import json, sys
from annotate_kit import leave_out_encoder
from emoray.config import load
from pytest import MonkeyPatch
from emoray.lake.tables import Lake
from emoray_jobs.annotate import job as annotate
from emoray_jobs.config import Config
leave_out_encoder(MonkeyPatch())
result = annotate.run(load(Config, file=sys.argv[1]))
print(json.dumps({"counts": vars(result.counts), "nodes": result.resources.nodes}))
"""


@dataclass(frozen=True)
class Place:
    """A cluster, a store and a user's shell between them."""

    address: str
    folder: Path
    environment: dict[str, str]

    def emoray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in the user's shell, in a folder that is no clone."""
        command = [sys.executable, "-m", "emoray_jobs", *words, "--config", "small.yaml"]
        run = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400
        )
        print(run.stdout, run.stderr, sep="\n")  # noqa: T201 (pytest shows it where the test fails)
        return run

    def config(self) -> Config:
        return settings.load(Config, file=self.folder / "small.yaml", environ={})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, nodes) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("shell")
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request otherwise
    store.start()
    host, port = store.get_host_and_port()
    # The nodes do not know where the tables are: that is for the job to bring.
    shell = {**nodes.environment, **CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    try:
        boto3.client("s3", endpoint_url=shell["AWS_ENDPOINT_URL"], **_keys()).create_bucket(Bucket=BUCKET)
        text = SMALL.format(bucket=BUCKET, folder=folder, address=nodes.dashboard, python=sys.executable)
        (folder / "small.yaml").write_text(text)
        yield Place(nodes.dashboard, folder, shell)
    finally:
        store.stop()


def _keys() -> dict[str, str]:
    return {
        "aws_access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        "region_name": CREDENTIALS["AWS_DEFAULT_REGION"],
    }


@pytest.fixture(scope="module")
def lake(place: Place) -> Lake:
    config = place.config().lake
    options = {"endpoint_url": place.environment["AWS_ENDPOINT_URL"], "key": "test", "secret": "test"}
    return Lake(config.model_copy(update={"storage_options": options}))


@pytest.fixture(scope="module")
def annotate_job(place: Place, lake: Lake) -> subprocess.CompletedProcess[str]:
    build = place.emoray("corpus", "build")
    assert build.returncode == 0, build.stderr
    return place.emoray("submit", "annotate")


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
    state = annotation_state(Lake(config.lake), config.corpus.name, config.annotate)
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


def test_annotate_runs_on_the_cluster_and_its_tables_are_on_the_store(annotate_job, place, lake):
    assert annotate_job.returncode == 0, annotate_job.stdout
    assert "SUCCEEDED" in annotate_job.stdout
    ids = sorted(lake.utterances("small", ["utterance_id"])["utterance_id"].to_pylist())
    assert len(ids) == 40
    fingerprints = annotation_state(lake, place.config().corpus.name, place.config().annotate).fingerprints
    assert len(fingerprints) == 7
    for stage, fingerprint in fingerprints.items():
        outcomes = lake.dataset("annotations", stage, fingerprint)
        assert outcomes is not None, stage
        assert sorted(outcomes.to_table(columns=["utterance_id"])["utterance_id"].to_pylist()) == ids, stage
    decoded = lake.stage_outcomes("decode", fingerprints["decode"])
    assert decoded is not None
    assert decoded.filter(pl.col("value").is_null()).collect().is_empty()


def test_train_runs_on_the_cluster_and_registers_its_model(annotate_job, place, lake):
    assert annotate_job.returncode == 0
    run = place.emoray("submit", "train")
    assert run.returncode == 0, run.stdout
    config = place.config()
    client = tracking.connect(config.tracking, lake).client
    (version,) = client.search_model_versions(f"name='{config.tracking.model_name}'")
    assert client.get_run(version.run_id).info.status == "FINISHED"


def test_protocol_and_annotate_write_their_runs_to_the_tracking_store(annotate_job, place, lake):
    """Neither got the store's address once, and both lost their runs without a word."""
    assert annotate_job.returncode == 0
    run = place.emoray("submit", "protocol", "--seeds", "0", "--set", "protocol.cpus_per_trial=1")
    assert run.returncode == 0, run.stdout
    store = tracking.connect(place.config().tracking, lake)
    tags = [found.data.tags for found in store.client.search_runs([store.experiment_id])]
    verbs = [one["emoray.verb"] for one in tags]
    assert (verbs.count("annotate"), verbs.count("protocol")) == (1, 2)  # a protocol and its trial
    assert len([one for one in tags if "emoray.protocol" in one]) == 1
    assert [one["emoray.seed"] for one in tags if "mlflow.parentRunId" in one] == ["0"]


def test_a_job_that_fails_says_why_and_ends_with_its_status(place):
    run = place.emoray("submit", "annotate", "--set", "corpus.name=nowhere")
    assert run.returncode == 1
    assert "FAILED" in run.stdout
    assert "corpus 'nowhere' is not in this lake" in run.stdout, "the job's own log, streamed"
    assert "ray job logs" in run.stdout


def test_ctrl_c_leaves_the_job_running_and_inside_it_python_and_the_parts_are_in_order(place):
    command = [sys.executable, "-m", "emoray_jobs", "submit", "doctor", "--config", "small.yaml"]
    shell = subprocess.Popen(
        command, cwd=place.folder, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    submission_id = shell.stdout.readline().split()[0]
    shell.send_signal(signal.SIGINT)
    out, err = shell.communicate(timeout=60)
    assert shell.returncode == submit.EXIT_INTERRUPTED, err
    assert f"{submission_id} continues without this terminal" in out
    token = Path(place.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    client = JobSubmissionClient(place.address, headers={"Authorization": f"Bearer {token}"})
    log = place.emoray("submit", "doctor", "--no-wait")
    assert log.returncode == 0
    assert "continues without this terminal" in log.stdout
    for job in (submission_id, log.stdout.split()[0]):
        watch = submit._Watch(client, job, 10, lambda _: None)
        assert watch.to_the_end().status.value == "SUCCEEDED", watch.tail
        assert "Python's `platform` is its own" in watch.tail
        assert f"s3://{BUCKET}/emoray is writable" in watch.tail


def test_without_the_token_nothing_runs(place, tmp_path):
    (tmp_path / "other").write_text("another token than the cluster's")
    stranger = {**place.environment, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    run = Place(place.address, place.folder, stranger).emoray("submit", "doctor")
    assert run.returncode == 1
    assert "refuses this client's token" in run.stderr
    assert str(tmp_path / "other") in run.stderr
