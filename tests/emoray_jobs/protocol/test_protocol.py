"""Protocols: every fold and seed once, pooled, resumed, logged once, and nothing that was tested trained on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jobs_kit
import numpy as np
import polars as pl
import protocol_kit
import pytest
from docs_kit import DOCS, blocks
from error_kit import of_kind
from metrics_kit import ccc
from process_kit import kill_when_stored

from emoray.errors import LakeError, SchemaError
from emoray.evaluation.summary import check_predictions
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray_jobs import cli
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.protocol import job as protocol
from emoray_jobs.train import job as train

PARENT = "mlflow.parentRunId"
CLASSES = "model.classes=[anger,happiness,sadness,neutral]"


def predictions(report):
    return check_predictions(pl.read_parquet(f"{report.folder}/predictions.parquet"))


def children(config, result):
    """Tags of the parent's children by (seed, fold)."""
    found = jobs_kit.store(config).client.search_runs(["1"], f"tags.`{PARENT}` = '{result.run_id}'")
    return {(run.data.tags["emoray.seed"], run.data.tags.get("emoray.fold")): run for run in found}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Both tasks of IEMOCAP at once: dimensions and four classes, five folds, two seeds."""
    folder = tmp_path_factory.mktemp("measured")
    config = protocol_kit.iemocap(folder, "corpus.iemocap.classes=4", CLASSES, "train.objective.category=1", sessions=5)
    return config, protocol.run(config, seeds=[0, 1])


def test_each_clip_is_predicted_once_per_seed_by_the_model_that_left_its_session_out(measured):
    config, result = measured
    assert [(one.trial.seed, one.trial.fold) for one in result.trials] == [(s, f) for s in (0, 1) for f in range(5)]
    assert not result.failed
    (report,) = result.reports
    frame, lake = predictions(report), Lake(config.lake)
    assert frame.group_by("utterance_id").agg(pl.col("seed").sort()).select(
        pl.col("seed").unique().implode().list.len()
    ).item() == 1  # fmt: skip
    assert frame.height == 2 * lake.utterances("iemocap").num_rows == 40
    table = pl.from_arrow(lake.utterances("iemocap", ["utterance_id", "fold", "speaker_id"]))
    assert set(frame.select("utterance_id", "fold").rows()) == set(table.select("utterance_id", "fold").rows())
    session = dict(table.select("utterance_id", "fold").rows())
    for trial in (one.trial for one in result.trials):
        plan = pl.read_parquet(lake.path(*_plan(lake, trial.run)))
        trained = {session[name] for name in plan["utterance_ids"].explode()}
        assert trained == set(range(5)) - {trial.fold, (trial.fold + 1) % 5}


def _plan(lake, run):
    """The plan that a run's checkpoint counts its steps in."""
    (state,) = lake.fs.glob(lake.path("checkpoints", run, "*", "state.json"))
    mark = lake.read_json(*state.removeprefix(lake.root).strip("/").split("/"))["plan"]
    (found,) = lake.fs.glob(lake.path("training_sets", "*", "plans", f"{mark}.parquet"))
    return found.removeprefix(lake.root).strip("/").split("/")


def test_figures_are_over_the_pooled_predictions_with_deviations_over_seeds(measured):
    _, result = measured
    (report,) = result.reports
    frame, level = predictions(report), report.metrics["levels"]["audio"]
    by_seed = frame.partition_by("seed", maintain_order=True)
    cccs = [ccc(one["arousal_pred"].to_numpy(), one["arousal_true"].to_numpy()) for one in by_seed]
    assert level["metrics"]["ccc_arousal"]["estimate"] == pytest.approx(np.mean(cccs))
    assert level["metrics"]["ccc_arousal"]["seed_sd"] == pytest.approx(np.std(cccs, ddof=1))
    recalls = [(one["emotion_true"] == one["emotion_pred"]).mean() for one in by_seed]  # classes are equally frequent
    assert level["metrics"]["ua"]["estimate"] == pytest.approx(np.mean(recalls))
    assert report.metrics["unit"] == "speaker"
    assert report.metrics["n_speakers"] == 10
    assert [row["value"] for row in level["folds"]] == list("01234")
    assert {"macro_f1", "wa", "ccc_mean"} <= set(level["folds"][0])
    page = Path(report.page).read_text()
    assert "Fold by fold" in page
    assert "each clip was predicted once per seed" in page


def test_one_parent_with_a_child_per_trial_and_no_version(measured):
    config, result = measured
    tracking = jobs_kit.store(config)
    assert versions.all_versions(tracking) == []
    found = children(config, result)
    assert set(found) == {(str(seed), str(fold)) for seed in (0, 1) for fold in range(5)}
    for run in found.values():
        assert run.info.status == "FINISHED"
        points = jobs_kit.logged(tracking.client, run.info.run_id)
        assert ("loss", 0) in points
        assert ("test/audio/ccc_arousal", 0) in points
        assert run.data.params["train.seed"] == run.data.tags["emoray.seed"]
    parent = tracking.client.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["protocol.seeds"] == "[0, 1]"
    level = result.reports[0].metrics["levels"]["audio"]["metrics"]
    assert parent.data.metrics["test/audio/ccc_mean"] == pytest.approx(level["ccc_mean"]["estimate"])
    assert parent.data.metrics["test/audio/ua_seed_sd"] == pytest.approx(level["ua"]["seed_sd"])
    names = {file.path for file in tracking.client.list_artifacts(result.run_id, "report/test")}
    assert {"report/test/metrics.json", "report/test/predictions.parquet", "report/test/report.html"} <= names


def test_a_second_run_does_and_logs_nothing_new_and_a_seed_more_reuses_the_others(measured, monkeypatch):
    config, result = measured
    tracking = jobs_kit.store(config)
    runs = sorted(jobs_kit.runs(tracking))
    points = {run: jobs_kit.logged(tracking.client, run) for run in runs}
    again = protocol.run(config, seeds=[0, 1])
    assert (again.name, again.run_id) == (result.name, result.run_id)
    assert all(trial.reused for trial in again.trials)
    assert all(report.reused for report in again.reports)
    assert again.reports[0].metrics == result.reports[0].metrics
    assert sorted(jobs_kit.runs(tracking)) == runs
    assert {run: jobs_kit.logged(tracking.client, run) for run in runs} == points

    alone = protocol.run(config, seeds=[1])
    assert all(trial.reused for trial in alone.trials)
    assert alone.run_id != result.run_id
    ours, theirs = children(config, alone)["1", "3"], children(config, result)["1", "3"]
    assert ours.info.run_id != theirs.info.run_id
    logged = jobs_kit.logged(tracking.client, ours.info.run_id)
    assert logged == points[theirs.info.run_id]
    assert alone.reports[0].metrics["levels"]["audio"]["metrics"]["ccc_mean"]["seed_sd"] is None


def test_classes_alone_are_selected_and_reported_by_uar(tmp_path):
    only = ("train.objective.ccc=0", "train.objective.category=1", "train.epochs=1")
    config = protocol_kit.iemocap(tmp_path, "corpus.iemocap.classes=4", CLASSES, *only)
    result = protocol.run(config)
    assert all(trial.outcome.dev["score"] == trial.outcome.dev["uar"] for trial in result.trials)
    found = result.reports[0].metrics
    assert (found["dimensions"], len(found["classes"])) == ([], 4)
    assert set(found["levels"]["audio"]["metrics"]) == {"ua", "wa", "macro_f1", "ece", "brier"}


def test_partitions_of_msp_podcast_and_the_run_of_train_are_the_same(tmp_path):
    config = protocol_kit.podcast(tmp_path)
    result = protocol.run(config, seeds=[0, 1])
    assert [(one.trial.seed, one.trial.fold) for one in result.trials] == [(0, None), (1, None)]
    assert [report.split for report in result.reports] == ["test1", "test2"]  # the labels of test3 are hidden
    for report in result.reports:
        frame = predictions(report)
        assert frame.height == 2 * 8
        assert set(frame["split"]) == {report.split}
        assert report.metrics["folds"] == []
    assert set(children(config, result)) == {("0", None), ("1", None)}
    trained = train.run(config)
    assert trained.run == result.trials[0].trial.run
    assert trained.resumed_at == trained.steps  # nothing was left to train
    assert trained.dev == result.trials[0].outcome.dev
    (judged, _) = evaluate.run(config, model=trained.version).reports
    ours = predictions(result.reports[0]).filter(pl.col("seed") == 0).sort("utterance_id")
    assert predictions(judged).sort("utterance_id")["arousal_pred"].to_list() == pytest.approx(ours["arousal_pred"])


#: Runs the protocol until fold 1 has stored the checkpoint of step 1, says so and waits to be killed.
_VICTIM = """
import sys
from pathlib import Path
import protocol_kit
from emoray.training.checkpoint import Checkpoint
from emoray_jobs.protocol import job as protocol

config = protocol_kit.iemocap(Path(sys.argv[1]))
push, begun = Checkpoint.push, []

def push_and_wait(self, lake, run):
    address = push(self, lake, run)
    if run not in begun:
        begun.append(run)
    if len(begun) == 2:
        print("stored", flush=True)
        sys.stdin.read()
    return address

Checkpoint.push = push_and_wait
protocol.run(config)
"""


def test_a_killed_protocol_is_continued_by_the_same_command(tmp_path):
    kill_when_stored(_VICTIM, str(tmp_path / "killed"))
    config = protocol_kit.iemocap(tmp_path / "killed")
    lake, tracking = Lake(config.lake), jobs_kit.store(config)
    before = jobs_kit.runs(tracking)
    assert len(before) == 3  # the parent, fold 0 and fold 1
    result = protocol.run(config)
    assert [trial.reused for trial in result.trials] == [True, False, False]
    for one in result.trials:
        assert lake.exists("checkpoints", one.trial.run, "journal", "000000001.json")
    assert set(before) < set(jobs_kit.runs(tracking))
    assert len(jobs_kit.runs(tracking)) == 4

    undisturbed = protocol_kit.iemocap(tmp_path / "undisturbed")
    expected = protocol.run(undisturbed)
    assert [trial.outcome.dev for trial in result.trials] == [trial.outcome.dev for trial in expected.trials]
    assert result.reports[0].metrics["levels"] == expected.reports[0].metrics["levels"]
    ours, theirs = children(config, result), children(undisturbed, expected)
    for key, run in ours.items():
        logged = jobs_kit.logged(tracking.client, run.info.run_id)
        assert logged == jobs_kit.logged(jobs_kit.store(undisturbed).client, theirs[key].info.run_id), key


def test_a_trial_that_fails_is_named_and_takes_no_other_down(tmp_path, capsys, monkeypatch):
    config = protocol_kit.iemocap(tmp_path)
    lake, tracking = Lake(config.lake), jobs_kit.store(config)
    good = protocol.run(config)
    broken = good.trials[1].trial
    protocol_kit.break_off(lake, broken.run)
    lake.fs.rm(lake.path("checkpoints", good.trials[2].trial.run), recursive=True)
    monkeypatch.setattr(cli, "_load", lambda common: config)
    assert cli.main(["protocol", "--seeds", "0", "1"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "5 of 6 trials are finished, 4 of them by this call" in shown
    assert f"Failed: seed 0, fold 1 (checkpoints/{broken.run})" in shown
    assert "not a whole checkpoint" in shown
    assert "Not in the figures: seed 0" in shown
    found = tracking.client.search_runs(["1"], f"tags.`emoray.run` = '{broken.run}'")
    failed = [run for run in found if run.info.status == "FAILED"]
    assert ["not a whole checkpoint" in run.data.tags["emoray.error"] for run in failed] == [True]

    lake.fs.rm(lake.path("checkpoints", broken.run), recursive=True)
    assert cli.main(["protocol", "--seeds", "0", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "6 of 6 trials are finished, 1 of them by this call" in shown
    run = tracking.client.get_run(failed[0].info.run_id)
    assert run.info.status == "FINISHED"
    assert "emoray.error" not in run.data.tags
    jobs_kit.logged(tracking.client, run.data.tags[PARENT])  # fails if the first report had been logged


@pytest.mark.long
def test_trials_on_ray_end_like_those_in_one_process_also_when_one_dies(tmp_path, ray_session, monkeypatch):
    from emoray_jobs.protocol import tune

    alone = protocol_kit.iemocap(tmp_path / "alone")
    expected = protocol.run(alone)
    monkeypatch.setattr(tune, "_work", protocol_kit.work_and_die_once)
    config = protocol_kit.iemocap(tmp_path / "together", "launch.workers=1")
    result = protocol.run(config)
    assert not result.failed
    assert Lake(config.lake).exists("died")
    assert [trial.outcome.dev for trial in result.trials] == [
        pytest.approx(trial.outcome.dev, abs=1e-5) for trial in expected.trials
    ]
    tracking = jobs_kit.store(config)
    ours, theirs = children(config, result), children(alone, expected)
    assert set(ours) == set(theirs)
    for key, run in ours.items():
        logged = jobs_kit.logged(tracking.client, run.info.run_id)
        there = jobs_kit.logged(jobs_kit.store(alone).client, theirs[key].info.run_id)
        assert logged == pytest.approx(there, abs=1e-4), key

    protocol_kit.break_off(Lake(config.lake), result.trials[0].trial.run)
    Lake(config.lake).fs.rm(Lake(config.lake).path("checkpoints", result.trials[2].trial.run), recursive=True)
    again = protocol.run(config)
    assert [one.trial.name for one in again.failed] == ["seed 0, fold 0"]
    assert "not a whole checkpoint" in again.failed[0].error
    assert again.trials[2].outcome.dev == pytest.approx(expected.trials[2].outcome.dev, abs=1e-5)


def test_the_two_commands_of_the_guide(tmp_path, capsys, monkeypatch):
    protocol_kit.iemocap(tmp_path)
    guide = DOCS / "guides" / "train-compare.md"
    (shown,) = (block for block in blocks(guide, "yaml") if "iemocap.yaml" in block)
    (lines,) = (block for block in blocks(guide, "bash") if "emoray protocol" in block)
    monkeypatch.chdir(tmp_path)
    Path("iemocap.yaml").write_text(shown)
    small = {"LAUNCH__WORKERS": 0, "TRAIN__EPOCHS": 1, "MODEL__ENCODER__LOGMEL__WIDTH": 16}
    for name, value in small.items():
        monkeypatch.setenv(f"EMORAY_{name}", str(value))
    commands = [shlex.split(line) for line in lines.splitlines()]
    assert [words[:2] for words in commands] == [["emoray", "corpus"], ["emoray", "protocol"]]
    for words in commands:
        assert cli.main(words[1:]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "acoustic on iemocap, test: 12 clips, 6 speakers, 3 folds, 3 seeds (mean ± sd)" in printed
    assert "9 of 9 trials are finished" in printed
    assert re.search(r"audio alone │ \S+ ± \d\.\d{3}", printed)


def test_a_model_that_reads_text_asks_for_annotations(tmp_path):
    config = protocol_kit.iemocap(tmp_path, "model.name=concat")
    with pytest.raises(LakeError, check=of_kind("not_annotated")):
        protocol.run(config)


def test_a_speaker_of_train_in_a_test_set_is_refused(tmp_path):
    config = jobs_kit.config(tmp_path, "model.name=acoustic")
    lake = Lake(config.lake)
    jobs_kit.write_corpus(lake)
    table = pl.from_arrow(lake.utterances(jobs_kit.CORPUS))
    moved = table.with_columns(
        split=pl.when(pl.col("utterance_id") == "s01-0").then(pl.lit("test")).otherwise(pl.col("split"))
    )
    lake.write_utterances(jobs_kit.CORPUS, moved.to_arrow().cast(lake.utterances(jobs_kit.CORPUS).schema))
    with pytest.raises(SchemaError, match="'s01'", check=of_kind("speaker_in_two_splits")):
        protocol.run(config)
