"""The configuration that a run keeps: as it was in effect, without what may hold a secret."""

from __future__ import annotations

import jobs_kit

from emoray.lake.tables import Lake
from emoray.registry.tracking import connect
from emoray_jobs.train.run_setup import log_setup, read_setup


def test_secrets_are_not_kept_and_the_rest_is(tmp_path):
    config = jobs_kit.config(tmp_path / "lake")
    tracking = connect(config.tracking, Lake(config.lake))
    tree = config.model_dump(mode="json")
    tree["lake"]["storage_options"] = {"secret": "hush-1"}
    tree["submit"]["env"] = {"AWS_SECRET_ACCESS_KEY": "hush-2"}
    tree["tracking"]["uri"] = "https://alice:hush-3@mlflow.example"
    run_id = tracking.start_run("train")
    log_setup(tracking, run_id, tree)
    kept, packages = read_setup(tracking, run_id)
    assert "hush" not in str(kept)
    assert kept["lake"]["storage_options"] == {"secret": "not kept"}
    assert kept["model"] == tree["model"]
    assert any(one.startswith("mlflow==") for one in packages)
    plain = {**tree, "tracking": {**tree["tracking"], "uri": "http://mlflow.example"}}
    again = tracking.start_run("train")
    log_setup(tracking, again, plain)
    assert read_setup(tracking, again)[0]["tracking"]["uri"] == "http://mlflow.example"
