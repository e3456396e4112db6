"""registry prune: what nobody needs goes, with its files; what has a name, a past as champion or a copy stays."""

from __future__ import annotations

import jobs_kit
import pytest
import scoring_kit
from rich.console import Console

from emoray.errors import RegistryError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.gate import Check, Decision
from emoray.registry.promotion import crown_first, promote
from emoray.registry.publish import prune as plans
from emoray.registry.publish import shared
from emoray.registry.publish.log import log_bundle
from emoray_jobs import prune

PASSED = Decision(True, (Check("gain", True, "better"),), "gate", {"latency": {"p95_ms": 1.0}})


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Six versions: 1 was champion, 2 is, 3 is challenger, 4 was copied, 5 (it reads text) is nothing, 6 is newest."""
    monkeypatch.setattr(plans, "LEAST_AGE_S", 0.0)
    config = jobs_kit.config(tmp_path / "lake")
    tracking = jobs_kit.store(config)
    sound = scoring_kit.make_bundle(tmp_path / "sound", "acoustic")
    text = scoring_kit.make_bundle(tmp_path / "text")
    every = [
        log_bundle(tracking, tracking.start_run(f"run {number}"), text if number == 5 else sound, card="# M", tags={})
        for number in range(1, 7)
    ]
    crown_first(tracking, every[0], "test")
    promote(tracking, every[1], PASSED, every[0])
    versions.set_alias(tracking, versions.CHALLENGER, every[2])
    tracking.client.copy_model_version(every[3].uri, "other")
    _checkpoints(Lake(config.lake), every)
    return config, tracking, every


def _checkpoints(lake, every):
    def folder(run, run_id, *, done, steps=("000000002",)):
        lake.write_json(
            {"run_id": run_id, **({"done": {"version": "1"}} if done else {})}, "checkpoints", run, "run.json"
        )
        lake.write_bytes(b"", "checkpoints", run, "baselines.parquet")
        for step in steps:
            lake.write_bytes(b"weights", "checkpoints", run, step, "model.safetensors")

    folder("kept", every[1].run_id, done=True)
    folder("doomed", every[4].run_id, done=True)
    folder("unknown", "0" * 32, done=False)
    lake.write_json({}, "checkpoints", "trial", "test.json")
    lake.write_bytes(b"weights", "checkpoints", "trial", "000000002", "model.safetensors")


def _tree(config):
    lake = Lake(config.lake)
    return sorted(path for path in lake.fs.find(lake.root) if "mlflow.db" not in path)


def _names(items):
    return [one.what for one in items]


def test_it_says_what_would_go_and_changes_nothing(made):
    config, tracking, every = made
    before = _tree(config)
    found = prune.run(config, keep=1)
    assert [one.what.removeprefix("version ") for one in found.kept] == ["1", "2", "3", "4", "6"]
    assert [one.why for one in found.kept] == [
        "was champion",
        "champion",
        "challenger",
        "copied into another registered model",
        "among the newest",
    ]
    run = shared.find(tracking.client, every[4].tags[shared.HASH])
    assert _names(found.gone) == [
        "version 5",
        f"logged model {every[4].model_id}",
        f"shared files {run.info.run_name}",
        "checkpoints/doomed",
        "checkpoints/kept/000000002",
        "checkpoints/unknown",
    ]
    assert found.gone[2].size_bytes > 80 * 2**20
    assert _tree(config) == before
    assert len(versions.all_versions(tracking)) == 6
    console = Console(width=200)
    with console.capture() as capture:
        console.print(prune.render(found))
    assert "--yes" in capture.get()


def test_it_goes_and_what_stays_still_loads(made):
    config, tracking, every = made
    gone = prune.run(config, keep=1)
    done = prune.run(config, yes=True, keep=1)
    assert (done.done, _names(done.gone)) == (True, _names(gone.gone))
    assert [one.version for one in versions.all_versions(tracking)] == ["1", "2", "3", "4", "6"]
    for version in versions.all_versions(tracking):
        assert versions.load(tracking, version)
    paths = "\n".join(_tree(config))
    assert every[4].model_id not in paths
    assert shared.find(tracking.client, every[4].tags[shared.HASH]) is None
    assert "text_encoder" not in paths.replace("stages/text_encoder.py", "")
    assert "checkpoints/kept/baselines.parquet" in paths
    assert "checkpoints/trial/000000002" in paths
    for name in ("kept/000000002", "doomed", "unknown"):
        assert f"checkpoints/{name}" not in paths
    assert prune.run(config, keep=1).gone == ()


def test_files_that_a_kill_or_other_hands_left_are_found_again(made):
    config, tracking, every = made
    tracking.client.delete_model_version("emoray", "6")  # by hand, in MLflow; or by a prune that was killed then
    found = prune.run(config, keep=9)
    assert _names(found.gone)[0] == f"logged model {every[5].model_id}"
    prune.run(config, yes=True, keep=9)
    assert every[5].model_id not in "\n".join(_tree(config))
    with pytest.raises(RegistryError):
        versions.by_version(tracking, 6)


def test_shared_files_of_a_version_that_is_being_registered_stay(made, monkeypatch):
    config, tracking, every = made
    monkeypatch.setattr(plans, "LEAST_AGE_S", 3600.0)
    prune.run(config, yes=True, keep=0)
    assert shared.find(tracking.client, every[4].tags[shared.HASH]) is not None
