"""Training as a job: what it registers and logs, and that a killed one ends like one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal

import jobs_kit
import mlflow
import pytest
from process_kit import kill_when_stored, stop_at
from rich.console import Console

from emoray.config import validate
from emoray.errors import LakeError, TrainingError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.schema import utterances_table
from emoray.scoring.bundle import open_bundle
from emoray_jobs.config import Config
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.train import job as train
from emoray_jobs.train import metric_journal
from emoray_jobs.train.run_setup import read_setup

STEP_KEYS = {"loss", "loss_ccc", "ccc_valence", "ccc_arousal", "ccc_dominance", "lr", "grad_norm"}


def text_of(renderable):
    console = Console(width=240)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.fixture
def bare(tmp_path):
    """A lake with the tiny corpus, not annotated."""
    config = jobs_kit.config(tmp_path / "lake", "model.name=acoustic")
    jobs_kit.write_corpus(Lake(config.lake))
    return config


def test_a_run_is_registered_and_logged_once_and_then_reused(bare):
    first = train.run(bare, champion=True)
    tracking = jobs_kit.store(bare)
    version = versions.by_alias(tracking, "champion")
    assert (version.version, version.run_id, first.alias) == (first.version, first.run_id, "champion")
    points = jobs_kit.logged(tracking.client, first.run_id)
    assert {key for key, _ in points} >= STEP_KEYS
    assert sorted(step for key, step in points if key == "loss") == list(range(first.steps))
    assert max(value for (key, _), value in points.items() if key == "dev_score") == pytest.approx(first.dev["score"])
    run = tracking.client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.seed"] == "0"
    _looks_as_mlflow_users_expect(bare, first, version, run)

    again = train.run(bare, champion=True)
    assert (again.reused, again.version, again.run_id) == (True, first.version, first.run_id)
    assert jobs_kit.runs(tracking) == [first.run_id]
    assert jobs_kit.logged(tracking.client, first.run_id) == points


def _looks_as_mlflow_users_expect(config, result, version, run):
    """Datasets, tags, setup, description, and the figures of the trained model on the logged model's page."""
    tracking = jobs_kit.store(config)
    datasets = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert list(datasets) == ["training", "dev", "gate", "test"]
    assert len({one.digest for one in datasets.values()}) == 4
    source = json.loads(datasets["dev"].source)["uri"]
    assert source == Lake(config.lake).uri("utterances", jobs_kit.CORPUS)
    assert os.path.isabs(source)
    tags = run.data.tags
    assert (tags["emoray.verb"], tags["mlflow.source.name"]) == ("train", "emoray train")
    assert (tags["emoray.corpus"], tags["emoray.model"], tags["emoray.scale"]) == ("tiny", "acoustic", "1 to 7")
    assert tags["mlflow.user"]
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["mlflow.source.git.dirty"] in ("true", "false")
    assert tags["mlflow.note.content"].startswith("# emoray: acoustic on tiny")
    tree, packages = read_setup(tracking, result.run_id)
    assert validate(Config, {**tree, "lake": config.lake}) == config
    assert f"mlflow=={mlflow.__version__}" in packages

    entity = tracking.client.get_model_version(version.name, version.version)
    assert entity.description.startswith("# emoray: acoustic on tiny")
    assert "## Limits" in entity.description
    assert entity.tags["emoray.corpus"] == "tiny"
    logged = tracking.client.get_logged_model(version.model_id)
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": version.name, "version": int(version.version)}]
    of_model = {metric.key: metric for metric in logged.metrics}
    assert {"loss", "dev_score"}.isdisjoint(of_model)  # of single steps, such as the untrained network's
    bundle = open_bundle(versions.fetch(tracking, version))
    assert {name: metric.value for name, metric in of_model.items()} == bundle.metrics
    one = of_model["dev/audio/ccc_mean"]
    assert (one.step, one.dataset_name, one.dataset_digest) == (result.steps, "tiny dev", datasets["dev"].digest)
    assert float(version.tags["dev.ccc_mean"]) == pytest.approx(one.value, abs=1e-4)
    times = {point.step: point.timestamp for point in tracking.client.get_metric_history(result.run_id, "loss")}
    assert [times[step] for step in sorted(times)] == sorted(times.values())
    assert len(set(times.values())) > result.steps / 2  # each step's own time, not the checkpoint's


def test_a_logged_model_that_a_killed_call_left_is_registered_as_it_is(bare):
    first, tracking = train.run(bare), jobs_kit.store(bare)
    version = versions.by_version(tracking, first.version)
    tracking.client.delete_model_version(version.name, version.version)
    tracking.client.delete_logged_model_tag(version.model_id, "mlflow.modelVersions")
    Lake(bare.lake).write_json({"run_id": first.run_id}, "checkpoints", first.run, "run.json")
    again = versions.by_version(tracking, train.run(bare).version)
    assert again.model_id == version.model_id
    assert jobs_kit.logged(tracking.client, first.run_id)  # nothing twice


def test_fresh_trains_the_same_model_anew(bare):
    first = train.run(bare, champion=True)
    anew = train.run(bare, champion=True, fresh=True)
    assert not anew.reused
    assert (anew.version, anew.alias) == ("2", "challenger")
    assert anew.run_id != first.run_id
    assert anew.dev == first.dev


def test_a_killed_call_does_not_register_twice(bare):
    first = train.run(bare)
    lake = Lake(bare.lake)
    lake.write_json({"run_id": first.run_id}, "checkpoints", first.run, "run.json")
    again = train.run(bare)
    assert (again.version, again.run_id, again.reused) == (first.version, first.run_id, False)
    assert len(versions.all_versions(jobs_kit.store(bare))) == 1


def test_a_killed_driver_is_continued_by_the_same_command(bare, tmp_path):
    undisturbed = train.run(bare)
    other = jobs_kit.config(tmp_path / "other", "model.name=acoustic")
    jobs_kit.write_corpus(Lake(other.lake))
    kill_when_stored(_VICTIM, other.lake.root, "2", cwd=tmp_path)
    continued = train.run(other)
    assert continued.resumed_at is not None
    assert 0 < continued.resumed_at < undisturbed.steps
    assert continued.dev == pytest.approx(undisturbed.dev, abs=1e-6)
    tracking = jobs_kit.store(other)
    assert jobs_kit.runs(tracking) == [continued.run_id]
    resumed = jobs_kit.logged(tracking.client, continued.run_id)
    expected = jobs_kit.logged(jobs_kit.store(bare).client, undisturbed.run_id)
    assert resumed.keys() == expected.keys()
    assert resumed == pytest.approx(expected, abs=1e-6)


#: Trains until the checkpoint of a step is stored, says so and waits to be killed.
_VICTIM = """
import sys
import jobs_kit
from emoray_jobs.train import job as train
from emoray.training.checkpoint import Checkpoint

push = Checkpoint.push

def push_and_wait(self, lake, run):
    address = push(self, lake, run)
    if self.step == int(sys.argv[2]):
        print("stored", flush=True)
        sys.stdin.read()
    return address

Checkpoint.push = push_and_wait
train.run(jobs_kit.config(sys.argv[1], "model.name=acoustic"))
"""


def test_a_signal_has_training_checkpoint_and_the_same_command_goes_on(bare, tmp_path):
    undisturbed = train.run(bare)
    other = jobs_kit.config(tmp_path / "other", "model.name=acoustic")
    jobs_kit.write_corpus(Lake(other.lake))
    status, errors = stop_at(_STOPPED, other.lake.root, "4", line="in step 4", with_signal=signal.SIGTERM)
    goes_on = f"The same command resumes from step 5 of {undisturbed.steps}"
    assert re.fullmatch(rf"error: acoustic-\w+: stopped by SIGTERM\. {goes_on}", errors.splitlines()[-1])
    assert "Traceback" not in errors
    assert status == 130
    tracking = jobs_kit.store(other)
    (run_id,) = jobs_kit.runs(tracking)
    assert tracking.client.get_run(run_id).info.status == "KILLED"
    assert {step for _, step in jobs_kit.logged(tracking.client, run_id)} == set(range(5))
    continued = train.run(other)
    assert (continued.resumed_at, continued.run_id, continued.dev) == (5, run_id, undisturbed.dev)
    expected = jobs_kit.logged(jobs_kit.store(bare).client, undisturbed.run_id)
    assert jobs_kit.logged(tracking.client, run_id) == expected


#: `emoray train`, which says so when it is in a step, and there waits for a line.
_STOPPED = """
import sys
import jobs_kit
from emoray.training.step import Learner
from emoray_jobs import cli

learn = Learner.step

def wait_and_learn(self, share):
    if share.step == int(sys.argv[2]):
        print("in step", share.step, flush=True)
        sys.stdin.readline()
    return learn(self, share)

Learner.step = wait_and_learn
settings = (f"lake.root={sys.argv[1]}", *jobs_kit.SMALL, "model.name=acoustic")
raise SystemExit(cli.main(["train", *(word for one in settings for word in ("--set", one))]))
"""


@pytest.mark.parametrize("name", ["emosphere", "cnn14"])
def test_other_models_train_by_the_same_job(bare, name):
    cnn14 = ("model.encoder.kind=cnn14", "model.encoder.cnn14.mels=32", "model.encoder.cnn14.width=0.015625")
    config = jobs_kit.config(bare.lake.root, f"model.name={name}", "train.epochs=1", *cnn14)
    result, tracking = train.run(config), jobs_kit.store(config)
    points = jobs_kit.logged(tracking.client, result.run_id)
    assert (("loss_region", 0) in points) == (name == "emosphere")
    assert open_bundle(versions.fetch(tracking, versions.resolve(tracking, result.version))).config.name == name


def test_baselines_are_stored_beside_the_run_and_stand_in_its_report(bare):
    result = train.run(bare)
    assert list(result.baselines) == ["train mean", "statistics SVM"]
    assert result.baselines["train mean"] == pytest.approx(0, abs=1e-6)
    points = jobs_kit.logged(jobs_kit.store(bare).client, result.run_id)
    assert points["dev/baseline/statistics_SVM", 0] == result.baselines["statistics SVM"]
    (report,) = evaluate.run(bare, model=result.version).reports
    found = report.metrics["baselines"]
    assert set(found) == set(result.baselines)
    for one in found.values():
        own = report.best["ccc_mean"]["estimate"]
        gain = one["differences"]["ccc_mean"]["estimate"]
        assert own - gain == pytest.approx(one["metrics"]["ccc_mean"]["estimate"], abs=1e-6)
    printed = text_of(evaluate.render(evaluate.run(bare, model=result.version)))
    assert "statistics SVM" in printed
    assert "No baselines" not in printed
    assert train.run(bare).baselines == result.baselines


def test_a_model_behind_a_baseline_is_said_to_be(bare):
    result = train.run(bare)
    behind = dataclasses.replace(result, baselines={"train mean": 0.0, "statistics SVM": result.dev["score"] + 0.1})
    ahead = dataclasses.replace(result, baselines={"statistics SVM": result.dev["score"] - 0.1})
    assert "does not beat the statistics SVM." in text_of(train.render(behind))
    assert "does not beat" not in text_of(train.render(ahead))


def test_support_vector_machines_are_a_version_like_any_other(bare):
    config = jobs_kit.config(bare.lake.root, "model.name=statistics_svm")
    result = train.run(config, champion=True)
    assert (result.steps, result.alias, result.baselines) == (0, "champion", {})
    (report,) = evaluate.run(config, model=result.version).reports
    assert report.metrics["levels"]["audio"]["metrics"]["mae_valence"]["estimate"] > 0


def test_the_train_mean_is_a_version_like_any_other_and_reports_ccc_0(bare):
    config = jobs_kit.config(bare.lake.root, "model.name=mean")
    result = train.run(config, champion=True)
    assert (result.steps, result.resumed_at, result.alias) == (0, None, "champion")
    assert result.dev["ccc_mean"] == pytest.approx(0, abs=1e-6)  # float32 rounds the mean of a constant
    points = jobs_kit.logged(jobs_kit.store(config).client, result.run_id)
    assert points["dev_ccc_mean", 0] == result.dev["ccc_mean"]
    (report,) = evaluate.run(config, model=result.version).reports
    metrics = report.metrics["levels"]["audio"]["metrics"]
    assert metrics["ccc_mean"]["estimate"] == 0
    assert metrics["mae_valence"]["estimate"] > 0
    lake = Lake(config.lake)
    lake.write_json({"run_id": result.run_id}, "checkpoints", result.run, "run.json")  # killed before its end
    again = train.run(config)
    assert (again.version, again.reused, again.steps) == (result.version, False, 0)
    assert train.run(config).reused


@pytest.fixture
def without_dev(bare):
    """The corpus with its dev speakers in train."""
    lake = Lake(bare.lake)
    rows = lake.utterances(jobs_kit.CORPUS).to_pylist()
    moved = [{**row, "split": "train" if row["split"] == "dev" else row["split"]} for row in rows]
    lake.write_utterances(jobs_kit.CORPUS, utterances_table(moved))
    return bare


def test_without_a_dev_split_all_epochs_are_trained_and_the_last_one_counts(without_dev, caplog, capsys):
    result = train.run(without_dev)
    assert "no labelled dev split: all 4 epochs are trained" in caplog.text
    assert (result.best_epoch, result.dev, result.baselines) == (3, {}, {})
    assert "epoch 4/4" in capsys.readouterr().err
    assert "The last epoch counts" in text_of(train.render(result))
    tracking = jobs_kit.store(without_dev)
    bundle = open_bundle(versions.fetch(tracking, versions.by_version(tracking, result.version)))
    assert bundle.half_widths == {}
    assert not [key for key, _ in jobs_kit.logged(tracking.client, result.run_id) if key.startswith("dev")]
    report = evaluate.run(without_dev).report("test")
    assert report.metrics["conformal_level"] is None
    assert set(report.metrics["baselines"]) >= {"train mean"}
    assert "no dev split" in report.metrics["about"]["protocol"][0]


def test_a_schedule_by_dev_scores_needs_a_dev_split(without_dev):
    plateau = jobs_kit.config(without_dev.lake.root, "model.name=acoustic", "train.optimizer.schedule=plateau")
    with pytest.raises(TrainingError, match="split 'dev'"):
        train.run(plateau)


def test_metrics_of_steps_without_a_stored_checkpoint_are_not_logged(bare):
    lake = Lake(bare.lake)
    metric_journal.write(lake, "r", 2, [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.9}])
    assert metric_journal.entries(lake, "r") == []
    lake.write_json({}, "checkpoints", "r", "000000002", "state.json")
    assert [entry["step"] for entry in metric_journal.entries(lake, "r")] == [2]
    assert metric_journal.entries(lake, "r", after=2) == []


def test_the_logger_skips_what_another_driver_logged(bare):
    tracking = jobs_kit.store(bare)
    run_id = tracking.start_run("r")
    entry = {"timestamp_ms": 1, "metrics": [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.9}]}
    metric_journal.MetricLogger(tracking.client, run_id).log(entry)
    later = {"timestamp_ms": 2, "metrics": [*entry["metrics"], {"step": 2, "loss": 0.8}]}
    metric_journal.MetricLogger(tracking.client, run_id).log(later)
    assert jobs_kit.logged(tracking.client, run_id) == {("loss", 0): 1.0, ("loss", 1): 0.9, ("loss", 2): 0.8}


def test_a_model_that_reads_text_asks_for_annotations(bare, tmp_path):
    with pytest.raises(LakeError, match="emoray annotate") as error:
        train.run(jobs_kit.config(bare.lake.root, "model.name=msf_ser"))
    assert error.value.kind == "not_annotated"


def test_a_corpus_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LakeError, match=r"tiny.*emoray corpus build") as error:
        train.run(jobs_kit.config(tmp_path / "empty"))
    assert error.value.kind == "missing_corpus"


def test_a_corpus_without_labels_is_refused(tmp_path):
    config = jobs_kit.config(tmp_path / "lake", "model.name=acoustic")
    jobs_kit.write_corpus(Lake(config.lake), labelled=False)
    with pytest.raises(TrainingError, match="no labelled utterances in split 'train'") as error:
        train.run(config)
    assert error.value.kind == "empty_split"


def test_a_diverging_run_ends_as_failed(bare):
    config = jobs_kit.config(bare.lake.root, "model.name=acoustic", "train.optimizer.lr=1e30")
    with pytest.raises(TrainingError, match="not finite") as error:
        train.run(config)
    assert error.value.kind == "non_finite_loss"
    tracking = jobs_kit.store(config)
    assert [tracking.client.get_run(run_id).info.status for run_id in jobs_kit.runs(tracking)] == ["FAILED"]
