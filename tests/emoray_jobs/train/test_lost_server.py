"""An MLflow server that goes away in the middle: it is named, and the same command ends what was begun."""

from __future__ import annotations

import socket
import subprocess
import sys

import jobs_kit
import mlflow
import pytest
from process_kit import until_ready

from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.training.checkpoint import Checkpoint
from emoray_jobs import cli


class Server:
    """An `mlflow server` on one port that can be stopped and started again."""

    def __init__(self, folder):
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process = None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        log = self._folder / "server.log"
        with log.open("a") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        until_ready(f"{self.uri}/health", self._process, log)

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
            self._process = None


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    before = mlflow.get_tracking_uri()
    made.start()
    yield made
    made.stop()
    mlflow.set_tracking_uri(before)
    mlflow.set_registry_uri(before)


@pytest.fixture
def words(server, tmp_path):
    """`emoray train` on the tiny corpus."""
    settings = [f"lake.root={tmp_path}/lake", *jobs_kit.SMALL, "model.name=acoustic", f"tracking.uri={server.uri}"]
    jobs_kit.write_corpus(Lake(jobs_kit.config(tmp_path / "lake").lake))
    return ["train", *(word for one in settings for word in ("--set", one))]


def test_training_and_registering_go_on_where_the_server_went_away(server, words, tmp_path, monkeypatch, capsys):
    push, register = Checkpoint.push, mlflow.register_model

    def push_and_stop(checkpoint, lake, run):
        address = push(checkpoint, lake, run)
        if checkpoint.step == 6:
            server.stop()
        return address

    def stop_and_register(*arguments, **options):
        server.stop()
        return register(*arguments, **options)

    monkeypatch.setattr(Checkpoint, "push", push_and_stop)
    assert cli.main(words) == 1
    assert f"{server.uri}: the tracking server does not answer" in capsys.readouterr().err
    monkeypatch.setattr(Checkpoint, "push", push)
    monkeypatch.setattr(mlflow, "register_model", stop_and_register)
    server.start()
    assert cli.main(words) == 1
    assert "the tracking server does not answer" in capsys.readouterr().err
    monkeypatch.setattr(mlflow, "register_model", register)
    server.start()
    assert cli.main(words) == 0

    config = jobs_kit.config(tmp_path / "lake", "model.name=acoustic", f"tracking.uri={server.uri}")
    tracking = jobs_kit.store(config)
    (run_id,) = jobs_kit.runs(tracking)
    points = jobs_kit.logged(tracking.client, run_id)  # nothing twice
    losses = sorted(step for key, step in points if key == "loss")
    assert losses == list(range(len(losses)))
    assert len(losses) > 6
    (version,) = versions.all_versions(tracking)
    assert version.run_id == run_id
    assert tracking.client.get_run(run_id).info.status == "FINISHED"
    (logged,) = tracking.client.search_logged_models([tracking.experiment_id])
    assert logged.model_id == version.model_id
    assert versions.load(tracking, version)
