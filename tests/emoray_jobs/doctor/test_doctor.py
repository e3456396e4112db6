"""emoray doctor: each kind of trouble, made for real, is found and comes with a remedy."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
import scoring_kit
from error_kit import of_kind
from rich.console import Console

from emoray import config as settings
from emoray.errors import RegistryError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import connect
from emoray_jobs.config import Config
from emoray_jobs.doctor import engines, machine, services, speech
from emoray_jobs.doctor import job as doctor
from emoray_jobs.doctor.finding import Finding


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def load(tmp_path):
    def load(*overrides: str) -> Config:
        return settings.load(Config, overrides=[f"lake.root={tmp_path}/lake", *overrides], environ={})

    return load


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listens, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_machine_in_order_passes(load):
    result = doctor.run(load())
    failed = {name: finding for name, finding in result.findings.items() if finding.status == "fail"}
    assert result.ok, failed
    assert list(result.findings) == list(doctor.CHECKS)
    assert result.seconds < doctor.DEADLINE_S


def test_the_table_shows_every_finding_with_its_remedy():
    findings = {"lake": Finding("fail", "no such bucket", "Make one"), "gpu": Finding("ok", "none")}
    console = Console(width=120, record=True)
    with console.capture() as capture:
        console.print(doctor.render(doctor.DoctorResult(findings, 1.5)))
    text = capture.get()
    assert "no such bucket" in text
    assert "→ Make one" in text
    assert "1 to fix, 0 to know, 1 fine (1.5 s)" in text
    assert not doctor.DoctorResult(findings, 1.5).ok


def test_a_service_that_hangs_hides_nothing_else(load, listener):
    result = doctor.run(load(f"tracking.uri=http://127.0.0.1:{listener.getsockname()[1]}"), deadline_s=3)
    assert result.findings["tracking"] == Finding(
        "fail", "no answer within 3 s", "Check the address, and the network to it"
    )
    assert result.findings["python"].status == "ok"
    assert result.findings["lake"].status == "ok"


def test_a_machine_too_busy_for_a_check_of_its_own_is_no_fault(load, monkeypatch):
    never = threading.Event()
    monkeypatch.setitem(doctor.CHECKS, "gpu", lambda _: never.wait())
    result = doctor.run(load(), deadline_s=1)
    assert (result.findings["gpu"].status, result.findings["gpu"].detail) == ("warn", "not done within 1 s")
    assert "busy" in result.findings["gpu"].remedy
    never.set()


def test_packages_of_another_version_are_found(load, tmp_path, monkeypatch):
    in_order = machine.check_packages(load())
    assert (in_order.status, "as in the lock" in in_order.detail) == ("ok", True), in_order
    other = tmp_path / "site" / "soxr-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: soxr\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(str(other.parent))
    found = machine.check_packages(load())
    assert found.status == "fail"
    assert "soxr==1.1.0 (found 0.0.1)" in found.detail
    assert "make setup" in found.remedy


def test_a_folder_that_hides_pythons_platform_is_found(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert machine.check_shadowing(load()).status == "ok"
    (tmp_path / "platform").mkdir()
    assert machine.check_shadowing(load()).status == "ok", "a folder hides nothing, a package does"
    (tmp_path / "platform" / "__init__.py").touch()
    found = machine.check_shadowing(load())
    assert found.status == "fail"
    assert str(tmp_path / "platform" / "__init__.py") in found.detail


def test_a_port_that_is_taken_is_found(load, listener):
    port = listener.getsockname()[1]
    found = machine.check_ports(load(f"serve.http.port={port}"))
    assert found.status == "warn"
    assert str(port) in found.detail


def test_a_gpu_that_is_not_there_is_missed_only_where_one_is_asked_for(load):
    import torch

    if torch.cuda.is_available():
        assert machine.check_gpu(load("launch.gpu=true")).status == "ok"
    else:
        assert machine.check_gpu(load()).status != "fail"
        assert machine.check_gpu(load("launch.gpu=true")).status != "ok"


def test_the_parts_that_speech_needs_work_here(load):
    assert speech.check_audio(load()).status == "ok"
    assert speech.check_espeak(load()).detail.startswith("espeak-ng 1.")
    assert speech.check_text_encoder(load()).status == "ok"


def test_a_text_encoder_in_a_folder_that_is_not_there_is_found(load, tmp_path):
    assert speech.check_text_encoder(load(f"annotate.embed.model={tmp_path}")).status == "ok"
    assert speech.check_text_encoder(load(f"annotate.embed.model={tmp_path}/none")).status == "fail"
    assert "fetched" in speech.check_text_encoder(load("annotate.embed.model=roberta-base")).detail


def test_the_lake_is_left_as_it_was_found(load, tmp_path):
    assert services.check_lake(load()).status == "ok"
    assert not [path for path in (tmp_path / "lake").rglob("*") if path.is_file()]


def test_a_lake_that_cannot_be_written_is_found(load, tmp_path):
    (tmp_path / "file").touch()
    found = services.check_lake(load(f"lake.root={tmp_path}/file/lake"))
    assert found.status == "fail"
    assert "lake.root" in found.remedy


def test_a_store_that_does_not_answer_is_found(load, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = services.check_lake(
        load("lake.root=s3://bucket/emoray", f"lake.storage_options={{endpoint_url: 'http://127.0.0.1:{port}'}}")
    )
    assert found.status == "fail"
    assert "s3://bucket/emoray" in found.detail


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """A store of MLflow's own with one registered version and no alias."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("emoray")
    client.create_model_version("emoray", source="somewhere")
    return uri


def test_a_champion_is_seen_once_there_is_one(load, store):
    config = load(f"tracking.uri={store}")
    assert services.check_tracking(config).status == "ok"
    missing = services.check_champion(config)
    assert (missing.status, "emoray train" in missing.remedy) == ("warn", True)
    mlflow.MlflowClient(tracking_uri=store, registry_uri=store).set_registered_model_alias("emoray", "champion", "1")
    with pytest.raises(RegistryError, check=of_kind("version_files_missing")):
        services.check_champion(config)


def test_the_champions_files_are_opened(load, tmp_path):
    config = load()
    tracking = connect(config.tracking, Lake(config.lake))
    bundle = scoring_kit.make_bundle(tmp_path / "bundle")
    version = log_bundle(tracking, tracking.start_run("made"), bundle, card="# A model", tags={})
    versions.set_alias(tracking, versions.CHAMPION, version)
    found = services.check_champion(config)
    assert found == Finding("ok", "models:/emoray@champion is version 1; its files can be opened")
    weights = versions.fetch(tracking, version) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RegistryError, check=of_kind("bad_bundle")):
        services.check_champion(config)
    weights.unlink()
    with pytest.raises(RegistryError, check=of_kind("bad_bundle")):
        services.check_champion(config)


def test_a_store_that_is_not_there_yet_is_no_trouble(load, tmp_path):
    config = load()
    assert services.check_tracking(config).status == "ok"
    assert services.check_champion(config).status == "warn"
    assert not list(Path(tmp_path).rglob("mlflow.db")), "looking makes no store"


def test_a_file_that_is_no_store_is_found(load, tmp_path):
    (tmp_path / "other.db").write_bytes(b"not a database at all" * 100)
    result = doctor.run(load(f"tracking.uri=sqlite:///{tmp_path}/other.db"))
    assert result.findings["tracking"].status == "fail"
    assert "DatabaseError" in result.findings["tracking"].detail


def test_tables_on_a_store_want_a_tracking_server(load):
    result = doctor.run(
        load("lake.root=s3://bucket/emoray", "lake.storage_options={endpoint_url: 'http://127.0.0.1:9'}")
    )
    assert "tracking.uri=http" in result.findings["tracking"].remedy


def test_a_cluster_with_another_ray_is_found(load):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"ray_version": "2.40.0"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        found = services.check_ray(load(f"submit.address=http://127.0.0.1:{httpd.server_port}"))
        httpd.shutdown()
    assert found.status == "fail"
    assert "2.40.0" in found.detail


def test_a_token_that_others_can_read_is_found(load, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    token.chmod(0o644)
    found = services.check_token(load())
    assert (found.status, found.remedy) == ("warn", f"chmod 600 {token}")
    token.chmod(0o600)
    assert services.check_token(load()).status == "ok"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert services.check_token(load()).status == "warn"


SEMANTICS = "annotate.semantics"


def test_an_engine_that_is_not_installed_or_not_there_is_found(load, listener, monkeypatch):
    assert engines.check_engines(load()) == Finding("ok", "none needed")
    monkeypatch.setattr(engines, "REPLY_S", 0.3)
    asked = (f"{SEMANTICS}.kind=text_llm", f"{SEMANTICS}.engine.kind=endpoint")
    assert "address" in engines.check_engines(load(*asked)).detail
    url = f"{SEMANTICS}.engine.endpoint.url=http://127.0.0.1:{listener.getsockname()[1]}/v1"
    silent = engines.check_engines(load(*asked, url))
    assert silent.status == "fail"
    assert "Timeout" in silent.detail
    key = f"{SEMANTICS}.engine.endpoint.api_key_env=NO_SUCH_KEY"
    assert "NO_SUCH_KEY" in engines.check_engines(load(*asked, url, key)).detail
    found = engines.check_engines(load("annotate.transcribe.kind=whisper_vllm", f"{SEMANTICS}.kind=audio_llm"))
    here = importlib.util.find_spec("vllm") is not None
    assert found.status == ("ok" if here else "fail")
    assert here or "annotate.semantics and annotate.transcribe" in found.detail


def test_the_describers_engine_is_looked_at_too(load, listener, monkeypatch):
    monkeypatch.setattr(engines, "REPLY_S", 0.3)
    describer = "serve.describer.engine"
    found = engines.check_engines(load(f"{describer}.kind=vllm"))
    here = importlib.util.find_spec("vllm") is not None
    assert found.status == ("ok" if here else "fail")
    assert here or "serve.describer" in found.detail
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    silent = engines.check_engines(load(f"{describer}={{kind: endpoint, endpoint: {{url: {address}}}}}"))
    assert silent.status == "fail"
    assert "Timeout" in silent.detail
