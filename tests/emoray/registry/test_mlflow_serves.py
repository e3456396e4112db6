"""A version behind MLflow's own server: `mlflow models serve` in this environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import httpx
import pytest
import scoring_kit as kit
from process_kit import until_ready

from emoray.audio.io import decode
from emoray.config import read_preset
from emoray.lake.tables import Lake, LakeConfig
from emoray.registry import pyfunc
from emoray.registry.config import TrackingConfig
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import connect
from emoray.scoring import shared_files
from emoray.scoring.scorer import load_bundle
from emoray.stages.model_files.weights import model_folder, revision


def _with_own_encoder(folder):
    """Stages with a text encoder that no package holds: the server must have it from MLflow."""
    shutil.copytree(model_folder("minilm"), folder)
    with (folder / "config.json").open("a") as file:
        file.write("\n")
    annotate = kit.annotate_config()
    return annotate.model_copy(update={"embed": annotate.embed.model_copy(update={"model": str(folder)})})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A version, its bundle, and the address of a server that may open files of one folder."""
    root = tmp_path_factory.mktemp("served")
    lake = Lake(LakeConfig(root=str(root / "lake"), storage_options={}))
    tracking = connect(TrackingConfig(**read_preset("laptop")["tracking"]), lake)
    bundle = kit.make_bundle(root / "bundle", annotate=_with_own_encoder(root / "encoder"))
    version = log_bundle(tracking, tracking.start_run("first"), bundle, card="# A model", tags={})
    (root / "clips").mkdir()
    (root / "tmp").mkdir()
    (root / "clips" / "a.wav").write_bytes(kit.wav_bytes(kit.speech()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        # As in an activated environment: MLflow calls uvicorn.
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": tracking.uri,
        # A machine that has fetched nothing yet.
        "TMPDIR": str(root / "tmp"),
        "SERVING_MODEL_CONFIG": json.dumps({"addresses": [str(root / "clips")]}),
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", version.uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = (root / "log").open("wb")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        until_ready(f"{address}/health", server, root / "log")
        yield bundle, root / "clips" / "a.wav", address
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def _post(address, records, **params):
    document = {"dataframe_records": records, "params": params}
    reply = httpx.post(f"{address}/invocations", json=document, timeout=120)
    assert reply.status_code == 200, reply.text
    return json.loads(reply.text, parse_constant=pytest.fail)["predictions"]  # NaN would be a constant


def test_it_answers_in_strict_json_what_the_scorer_scores(served):
    bundle, file, address = served
    wav = file.read_bytes()
    records = [
        {"audio": pyfunc.data_uri(wav), "transcript": kit.SENTENCE},
        {"audio": str(file), "transcript": kit.SENTENCE},
        {"audio": "/etc/hostname"},
        {"audio": pyfunc.data_uri(b"no audio")},
    ]
    sent, named, forbidden, broken = _post(address, records)
    scorer = load_bundle(bundle)
    (direct,) = scorer.score([kit.request(samples=decode(wav, scorer.audio).samples, words=None)])
    for answer in (sent, named):
        assert answer["error"] is None
        assert answer["level"] == direct.level
        for name in ("valence", "arousal", "dominance"):
            assert answer[name] == pytest.approx(getattr(direct, name).value, abs=1e-5)
            assert answer[f"{name}_low"] == pytest.approx(getattr(direct, name).low, abs=1e-5)
    assert forbidden["error"].startswith("address_not_allowed")
    assert (broken["valence"], broken["error"].partition(":")[0]) == (None, "not_audio")


def test_the_text_encoder_came_from_mlflow(served):
    bundle, *_ = served
    cache = bundle.parent / "tmp" / shared_files.cache_folder("x").relative_to(tempfile.gettempdir()).parent
    (fetched,) = cache.iterdir()
    assert revision(str(fetched)) == revision(str(bundle / "text_encoder")) != revision("minilm")


def test_parameters_reach_the_model(served):
    _, file, address = served
    (answer,) = _post(address, [{"audio": pyfunc.data_uri(file.read_bytes())}], semantics="none")
    assert answer["level"] == "audio"
