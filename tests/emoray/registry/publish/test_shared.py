"""Text encoder and frozen weights, stored once for all versions, and found again from wherever MLflow is reached."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import scoring_kit as kit
from benchmarks.tiny.checkpoints import make
from error_kit import of_kind

from emoray.config import read_preset
from emoray.errors import RegistryError
from emoray.lake.tables import Lake, LakeConfig
from emoray.registry import versions
from emoray.registry.config import TrackingConfig
from emoray.registry.publish import shared
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import connect
from emoray.scoring import shared_files
from emoray.scoring.scorer import load_bundle

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    lake = Lake(LakeConfig(root=str(tmp_path_factory.mktemp("shared") / "lake"), storage_options={}))
    return connect(TrackingConfig(**read_preset("laptop")["tracking"]), lake)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return kit.make_bundle(tmp_path_factory.mktemp("bundles") / "msf")


@pytest.fixture(scope="module")
def logged(tracking, bundle):
    return log_bundle(tracking, tracking.start_run("first"), bundle, card="# A model", tags={})


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine on which no package holds the text encoder, and that has fetched nothing."""
    monkeypatch.setattr(shared_files, "PACKAGED", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def _stored_bytes(tracking):
    root = tracking.uri.removeprefix("sqlite:///").removesuffix("mlflow.db")
    return sum(path.stat().st_size for path in (Path(root) / "mlartifacts").rglob("*") if path.is_file())


def test_a_second_version_adds_little_and_scores_alike(tracking, logged, bundle, tmp_path):
    before = _stored_bytes(tracking)
    other = kit.make_bundle(tmp_path / "other", seed=1)
    version = log_bundle(tracking, tracking.start_run("second"), other, card="# A model", tags={})
    assert before > 80 * MEBIBYTE
    assert _stored_bytes(tracking) - before < 10 * MEBIBYTE
    assert version.tags[shared.HASH] == logged.tags[shared.HASH]
    for one, folder in ((logged, bundle), (version, other)):
        (found,) = versions.load(tracking, one).score([kit.request()])
        (direct,) = load_bundle(folder).score([kit.request()])
        assert found.valence.value == pytest.approx(direct.valence.value, abs=1e-6)


def test_a_machine_that_reaches_mlflow_alone_fetches_them_once(tracking, logged, bundle, elsewhere):
    cached = shared_files.cache_folder(logged.tags[shared.HASH])
    assert not cached.exists()
    scores = mlflow.pyfunc.load_model(logged.uri).predict(pd.DataFrame({"audio": [kit.wav_bytes(kit.speech())]}))
    assert scores["error"].isna().all()
    assert (cached / "config.json").is_file()
    folder = versions.fetch(tracking, logged)
    assert versions.load(tracking, logged).bundle.annotate.embed.model == str(cached)
    (cached / "config.json").unlink()  # a sweep of the temporary folder
    with pytest.raises(RegistryError, check=of_kind("shared_files_missing")):
        load_bundle(folder)
    versions.fetch(tracking, logged)
    (found,), (direct,) = load_bundle(folder).score([kit.request()]), load_bundle(bundle).score([kit.request()])
    assert found.valence.value == pytest.approx(direct.valence.value, abs=1e-6)


def test_files_that_are_gone_or_changed_are_named(tracking, logged, elsewhere):
    run = shared.find(tracking.client, logged.tags[shared.HASH])
    tracking.client.delete_run(run.info.run_id)
    with pytest.raises(RegistryError, match="share_files", check=of_kind("shared_files_missing")):
        versions.fetch(tracking, logged)
    tracking.client.restore_run(run.info.run_id)
    settings = versions.local_path(run.info.artifact_uri) / "files" / "config.json"
    text = settings.read_text()
    settings.write_text(text.replace("{", "{ ", 1))
    with pytest.raises(RegistryError, check=of_kind("changed_files")):
        versions.fetch(tracking, logged)
    settings.write_text(text)
    assert versions.fetch(tracking, logged).is_dir()


def test_an_upload_that_was_killed_does_not_count(tracking, bundle, tmp_path, monkeypatch):
    own = connect(
        TrackingConfig(**read_preset("laptop")["tracking"]),
        Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={})),
    )
    monkeypatch.setattr(type(own.client), "set_terminated", _killed)
    run_id = own.start_run("first")
    with pytest.raises(KeyboardInterrupt):
        log_bundle(own, run_id, bundle, card="# A model", tags={})
    monkeypatch.undo()
    version = log_bundle(own, run_id, bundle, card="# A model", tags={})
    assert shared.find(own.client, version.tags[shared.HASH]).info.status == "FINISHED"
    mlflow.set_tracking_uri(tracking.uri)
    mlflow.set_registry_uri(tracking.uri)


def _killed(*_arguments, **_options):
    raise KeyboardInterrupt


def test_a_version_may_hold_everything(tracking, bundle, elsewhere):
    whole = dataclasses.replace(tracking, share_files=False)
    version = log_bundle(whole, tracking.start_run("whole"), bundle, card="# A model", tags={})
    assert shared.HASH not in version.tags
    folder = versions.fetch(tracking, version)
    assert (folder / "text_encoder" / "config.json").is_file()
    assert load_bundle(folder).score([kit.request()])


def test_frozen_weights_are_shared_and_the_trained_ones_are_not(tracking, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "LEAST_BYTES", 1)
    ssl = {"checkpoint": make("wavlm", str(tmp_path / "wavlm")), "tuning": "frozen"}
    made = []
    for seed in (0, 1):
        folder = kit.make_bundle(tmp_path / f"b{seed}", "acoustic", seed=seed, encoder={"kind": "ssl", "ssl": ssl})
        version = log_bundle(tracking, tracking.start_run("ssl"), folder, card="# A model", tags={})
        fetched = versions.fetch(tracking, version)
        assert (fetched / "model.safetensors").stat().st_size < (folder / "model.safetensors").stat().st_size / 2
        (found,), (direct,) = load_bundle(fetched).score([kit.request()]), load_bundle(folder).score([kit.request()])
        assert found.arousal.value == pytest.approx(direct.arousal.value, abs=1e-6)
        made.append(version)
    assert made[0].tags[shared.HASH] == made[1].tags[shared.HASH]
    shutil.rmtree(shared_files.cache_folder(made[0].tags[shared.HASH]))
    assert versions.load(tracking, made[0]).score([kit.request()])
