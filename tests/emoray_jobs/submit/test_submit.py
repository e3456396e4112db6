"""emoray submit: what travels, and what is refused before. The way there and back is for tests/cluster."""

from __future__ import annotations

import json
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from emoray import config as settings
from emoray.errors import ConfigError, InputError, ServiceError
from emoray_jobs.cluster import job_server
from emoray_jobs.config import Config
from emoray_jobs.submit import job as submit
from emoray_jobs.submit.package import CONFIG_FILE, JobPackage, build_job_package, package_folders
from emoray_jobs.verbs import VERBS, find_verb

REMOTE = "http://head.example:8265"
ON_S3 = "lake.root=s3://bucket/emoray"


def load(*overrides: str) -> Config:
    return settings.load(Config, overrides=overrides, environ={})


@pytest.fixture(autouse=True)
def _no_cluster_of_this_shell(monkeypatch, tmp_path):
    for name in (
        "RAY_API_SERVER_ADDRESS",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_AUTH_MODE",
        "MLFLOW_TRACKING_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def server() -> Iterator[tuple[str, dict]]:
    """An HTTP server that answers every GET with what `answer` holds: a Ray of another version, or no Ray at all."""
    answer = {"status": 200, "body": {"ray_version": version("ray")}, "authorization": None}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["authorization"] = self.headers.get("Authorization")
            body = json.dumps(answer["body"]).encode()
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", answer
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def contents(
    config: Config, verb: str, arguments=(), address: str = REMOTE
) -> tuple[Config, list[str], dict[str, bytes]]:
    """What a job would find in its working directory: configuration, command, other files."""
    words = (verb, *arguments)
    with build_job_package(config, words, VERBS[find_verb(words)], address) as (folder, entrypoint):
        inside = settings.load(Config, file=Path(folder) / CONFIG_FILE, environ={})
        files = {
            str(p.relative_to(folder)): p.read_bytes()
            for p in Path(folder).rglob("*")
            if p.is_file() and p.name != CONFIG_FILE
        }
    assert not Path(folder).exists()
    return inside, shlex.split(entrypoint), files


def test_the_job_gets_the_configuration_that_was_resolved_here():
    config = load(ON_S3, "train.epochs=3", "cluster.address=10.0.0.1:6379", "submit.python=python3.11")
    inside, command, files = contents(config, "annotate", ["--retry-failed"])
    assert command == ["python3.11", "-m", "emoray_jobs", "annotate", "--retry-failed", "--config", CONFIG_FILE]
    assert not files
    assert inside.cluster.address is None, "inside the job Ray says itself where it is"
    assert inside.model_copy(update={"cluster": config.cluster}) == config


def test_three_package_folders_travel():
    folders = package_folders()
    assert [Path(folder).name for folder in folders] == ["emoray", "emoray_jobs", "emoray_serving"]
    assert all((Path(folder) / "__init__.py").is_file() for folder in folders)


def test_local_files_of_the_corpus_travel_along(tmp_path):
    manifest = tmp_path / "calls 1.csv"
    manifest.write_text("audio_uri\ns3://bucket/a.wav\n")
    config = load(ON_S3, "corpus.kind=manifest", f"corpus.manifest.path={manifest}")
    inside, _, files = contents(config, "corpus", ["build"])
    assert files == {"files/0-calls 1.csv": manifest.read_bytes()}
    assert inside.corpus.manifest.path == "files/0-calls 1.csv"


def test_local_files_to_score_travel_along(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(name.encode())
    words = [str(tmp_path / "a.wav"), "s3://bucket/c.wav", str(tmp_path / "b.wav"), str(tmp_path / "a.wav"), "--json"]
    config = load(ON_S3, "tracking.uri=http://mlflow.example:5000")
    _, command, files = contents(config, "score", words)
    assert command[4:9] == ["files/0-a.wav", "s3://bucket/c.wav", "files/1-b.wav", "files/0-a.wav", "--json"]
    assert files == {"files/0-a.wav": b"a.wav", "files/1-b.wav": b"b.wav"}


def test_a_name_is_not_a_file_even_where_one_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = load().corpus.name
    (tmp_path / name).write_text("not a corpus")
    inside, _, files = contents(load(ON_S3), "annotate")
    assert inside.corpus.name == name
    assert not files


def test_tables_on_this_machine_are_refused_for_a_cluster_elsewhere():
    with pytest.raises(ConfigError, match=r"lake\.root: .*do not see it.*s3://") as caught:
        contents(load("lake.root=.emoray"), "annotate")
    assert caught.value.kind == "not_shared"


def test_a_tunnel_to_a_cluster_is_not_this_machine(server):
    address, answer = server
    answer["body"] = {"data": {"hostNameList": ["head-of-a-cluster-elsewhere"]}}
    with pytest.raises(ConfigError, match="do not see it"):
        contents(load("lake.root=.emoray"), "annotate", address=address)


def test_a_mount_that_all_nodes_share_is_left_as_it_is(tmp_path):
    config = load(f"lake.root={tmp_path}/emoray", f"submit.shared_folders=[{tmp_path}]")
    inside, _, _ = contents(config, "annotate")
    assert inside.lake.root == f"{tmp_path}/emoray"


def test_a_manifest_that_all_nodes_see_stays_beside_its_recordings(tmp_path):
    (tmp_path / "calls.csv").write_text("audio_uri\na.wav\n")
    shared = (f"corpus.manifest.path={tmp_path}/calls.csv", f"submit.shared_folders=[{tmp_path}]")
    inside, _, files = contents(load(ON_S3, "corpus.kind=manifest", *shared), "corpus", ["build"])
    assert inside.corpus.manifest.path == f"{tmp_path}/calls.csv"
    assert not files


def test_runs_on_this_machine_are_refused_for_a_cluster_elsewhere(tmp_path):
    config = load(ON_S3, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    for words in (("train",), ("annotate",), ("protocol",), ("evaluate", "--robustness")):
        with pytest.raises(ConfigError) as caught:
            contents(config, words[0], words[1:])
        assert (caught.value.kind, caught.value.where) == ("not_shared", "tracking.uri"), words
    inside, _, _ = contents(config, "corpus", ["build"])
    assert inside.tracking == config.tracking, "the import of a corpus tracks nothing"


def test_the_shells_mlflow_goes_into_the_jobs_configuration(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    for verb in ("train", "annotate", "protocol", "leaderboard"):
        inside, _, _ = contents(load(ON_S3), verb)
        assert inside.tracking.uri == "http://mlflow.example:5000", verb


def test_files_that_are_too_large_are_named(tmp_path):
    for number in range(2):
        with (tmp_path / f"{number}.wav").open("wb") as file:
            file.truncate(600 * 2**10)
    package = JobPackage(tmp_path / "package", REMOTE, [], max_mib=1)
    package.folder.mkdir()
    package.bundle_files(str(tmp_path / "0.wav"), "score")
    with pytest.raises(InputError, match=r"1\.wav: the files to send come to more than 1 MiB") as caught:
        package.bundle_files(str(tmp_path / "1.wav"), "score")
    assert caught.value.kind == "upload_too_large"


@pytest.mark.parametrize(("verb", "remedy"), [("anotate", "Did you mean 'annotate'"), ("serve", "deployed instead")])
def test_verbs_that_are_no_jobs_are_refused(verb, remedy):
    with pytest.raises(InputError, match=remedy):
        submit.run(load(ON_S3), verb, address=REMOTE)


def test_no_address_says_how_to_give_one():
    with pytest.raises(ConfigError, match="--address http://HEAD:8265"):
        submit.run(load(ON_S3), "annotate")


def test_a_cluster_address_is_not_a_job_servers():
    with pytest.raises(ConfigError, match="dashboard's port"):
        submit.run(load(ON_S3), "annotate", address="ray://head:10001")


def test_the_address_given_wins(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://env:8265")
    assert job_server.resolve_address(None, None) == "http://env:8265"
    assert job_server.resolve_address(None, "configured:8265/") == "http://configured:8265"
    assert job_server.resolve_address("https://given", "configured:8265") == "https://given"


def test_nobody_listening_is_told_at_once():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ServiceError, match="no Ray job server answers") as caught:
        submit.run(load(ON_S3), "annotate", address=f"http://127.0.0.1:{port}")
    assert caught.value.kind == "no_cluster"
    assert time.monotonic() - started < 5


def test_something_else_that_listens_is_told_from_a_ray(server):
    address, answer = server
    for status, body in ((200, {"hello": "world"}), (404, {}), (200, [])):
        answer.update(status=status, body=body)
        with pytest.raises(ServiceError, match="something else than a Ray job server"):
            submit.run(load(ON_S3), "annotate", address=address)


def test_a_refused_token_says_where_it_was_looked_for(server, tmp_path, monkeypatch):
    address, answer = server
    token = tmp_path / "token"
    token.write_text("not the right one\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    answer["status"] = 403
    with pytest.raises(ServiceError, match=str(token)) as caught:
        submit.run(load(ON_S3), "annotate", address=address)
    assert caught.value.kind == "unauthorized"
    assert answer["authorization"] == "Bearer not the right one"


def test_another_ray_is_refused_before_anything_is_sent(server):
    address, answer = server
    answer["body"] = {"ray_version": "2.40.0"}
    with pytest.raises(ServiceError, match=rf"Ray 2\.40\.0, this client {version('ray')}") as caught:
        submit.run(load(ON_S3), "annotate", address=address)
    assert caught.value.kind == "version_mismatch"


def test_the_token_is_found_where_ray_finds_it(tmp_path, monkeypatch):
    assert job_server.auth_headers() == {}
    home = tmp_path / "home" / ".ray"
    home.mkdir(parents=True)
    (home / "auth_token").write_text("from home\n")
    assert job_server.auth_headers() == {"Authorization": "Bearer from home"}
    (tmp_path / "token").write_text("from file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert job_server.auth_token() == ("from file", str(tmp_path / "token"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from the shell")
    assert job_server.auth_token() == ("from the shell", "RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert job_server.auth_headers() == {}


def test_a_token_file_that_is_named_must_be_there(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH=/nowhere/token"):
        job_server.auth_token()


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (submit.SubmitResult("job_1", REMOTE, "SUCCEEDED", "", 61.2, True, 0, None), ["job_1: SUCCEEDED after 61 s"]),
        (
            submit.SubmitResult(
                "job_1", REMOTE, "FAILED", "driver exited with 3", 5.0, True, 3, "The nodes lack packages"
            ),
            [
                "FAILED",
                "driver exited with 3",
                "The nodes lack packages",
                f"ray job logs --address {REMOTE} --follow job_1",
            ],
        ),
        (
            submit.SubmitResult("job_1", REMOTE, "RUNNING", "", 5.0, False, 130, None),
            [
                "continues without this terminal",
                f"ray job logs --address {REMOTE} --follow job_1",
                f"ray job stop --address {REMOTE} job_1",
            ],
        ),
    ],
)
def test_the_closing_lines_say_what_became_of_it_and_what_to_do(result, words):
    console = Console(width=200, record=True)
    with console.capture() as capture:
        console.print(submit.render(result))
    said = capture.get()
    assert [word for word in words if word not in said] == []
