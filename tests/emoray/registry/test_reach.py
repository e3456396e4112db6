"""A tracking server that does not answer is named as such, within a minute."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import mlflow
import pytest
from error_kit import of_kind

from emoray.config import read_preset
from emoray.errors import ServiceError
from emoray.lake.tables import Lake, LakeConfig
from emoray.registry.config import TrackingConfig
from emoray.registry.reach import is_lost, patient
from emoray.registry.tracking import Tracking, connect


@pytest.fixture
def listener():
    """Accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    yield
    mlflow.set_tracking_uri(before)
    mlflow.set_registry_uri(before)


def _connect(port, tmp_path):
    config = TrackingConfig(**{**read_preset("laptop")["tracking"], "uri": f"http://127.0.0.1:{port}"})
    return connect(config, Lake(LakeConfig(root=str(tmp_path), storage_options={})))


def test_a_port_that_accepts_and_never_answers_is_named(listener, tmp_path):
    with pytest.raises(ServiceError, match="does not answer", check=of_kind("tracking_unreachable")):
        _connect(listener.getsockname()[1], tmp_path)


def test_a_port_where_nobody_listens_is_named(closed_port, tmp_path):
    with pytest.raises(ServiceError, match="does not answer", check=of_kind("tracking_unreachable")):
        _connect(closed_port, tmp_path)


def test_a_lost_server_is_not_a_run_that_nobody_knows(closed_port):
    uri = f"http://127.0.0.1:{closed_port}"
    tracking = Tracking(uri, mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri), "1", "emoray")
    with pytest.raises(ServiceError, check=of_kind("tracking_unreachable")):
        tracking.has_run("0" * 32)


def test_other_errors_are_no_lost_server():
    assert not is_lost(ValueError("bad"))
    assert not is_lost(mlflow.exceptions.MlflowException("no such run"))


def test_the_usual_settings_give_up_within_a_minute():
    """Three tries, each to the end of its time, and the longest pauses between them."""
    code = (
        "import emoray.registry\n"
        "from mlflow import environment_variables as of\n"
        "tries = of.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() + 1\n"
        "factor, jitter = of.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get(), of.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get()\n"
        "pauses = sum(factor * 2**number + jitter for number in range(tries - 1))\n"
        "print(tries * of.MLFLOW_HTTP_REQUEST_TIMEOUT.get() + pauses)"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_HTTP")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=120, check=True
    )
    assert float(done.stdout) < 60


def test_large_files_get_longer_and_only_they(monkeypatch):
    with patient():
        assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) >= 600
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")  # who asks for more gets it
    with patient():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3600"
