"""A run trained again from what it recorded: equal on CPUs, and what differs is named."""

from __future__ import annotations

import jobs_kit
import pytest
from error_kit import of_kind
from rich.console import Console

from emoray.errors import RegistryError
from emoray.lake.tables import Lake
from emoray.registry import provenance, versions
from emoray.schema import utterances_table
from emoray_jobs import cli
from emoray_jobs.train import job as train
from emoray_jobs.train import reproduce


def text_of(result):
    console = Console(width=240)
    with console.capture() as capture:
        console.print(reproduce.render(result))
    return capture.get()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A lake with the tiny corpus and a trained model; the configuration of whoever asks is another one."""
    root = tmp_path_factory.mktemp("reproduce") / "lake"
    config = jobs_kit.config(root, "model.name=acoustic", "train.seed=3", "train.epochs=3")
    jobs_kit.write_corpus(Lake(config.lake))
    return train.run(config), jobs_kit.config(root)


@pytest.fixture
def other_labels(trained):
    """The corpus with other labels in train while a test runs."""
    lake = Lake(trained[1].lake)
    rows = lake.utterances(jobs_kit.CORPUS).to_pylist()
    changed = [{**row, "arousal": 1 - row["arousal"]} if row["split"] == "train" else row for row in rows]
    lake.write_utterances(jobs_kit.CORPUS, utterances_table(changed))
    yield lake
    lake.write_utterances(jobs_kit.CORPUS, utterances_table(rows))


def test_the_same_model_comes_out_and_nothing_is_registered(trained):
    first, config = trained
    tracking = jobs_kit.store(config)
    before = tracking.client.get_run(first.run_id).data
    again = reproduce.run(config, reference="challenger")
    assert again.equal
    assert again.steps == first.steps
    assert again.original == first.run_id != again.run_id
    assert again.figures
    assert all(then == now for then, now in again.figures.values())
    assert [one for one in again.differences if "perhaps" not in one] == []
    assert f"Equal: all {len(again.figures)} figures on dev." in text_of(again)
    run = tracking.client.get_run(again.run_id)
    assert (run.data.tags[reproduce.REPRODUCES], run.data.tags[reproduce.OUTCOME]) == (first.run_id, "equal")
    assert {name: run.data.metrics[name] for name in again.figures} == {n: before.metrics[n] for n in again.figures}
    assert run.data.params["train.seed"] == "3"
    assert [one.version for one in versions.all_versions(tracking)] == [first.version]


def test_another_corpus_and_another_commit_are_named(trained, other_labels, monkeypatch):
    first, config = trained
    monkeypatch.setattr(provenance, "commit", lambda: "0" * 40)
    again = reproduce.run(config, reference=first.run_id)
    said = text_of(again)
    assert f"the code: {'0' * 40} today, it was " in said
    recorded = jobs_kit.store(config).client.get_run(first.run_id).data.tags["emoray.training_set"]
    assert f"today, it was {recorded}" in said
    assert f"trained on the packed training set of then, {recorded}" in said
    assert again.equal  # the training set was still there


def test_without_the_training_set_of_then_the_corpus_of_today_is_used_and_the_figures_differ(
    trained, other_labels, capsys
):
    first, config = trained
    tags = jobs_kit.store(config).client.get_run(first.run_id).data.tags
    other_labels.fs.rm(other_labels.path("training_sets", tags["emoray.training_set"]), recursive=True)
    words = [word for one in (f"lake.root={config.lake.root}", *jobs_kit.SMALL) for word in ("--set", one)]
    assert cli.main(["reproduce", first.version, *words]) == 1
    said = capsys.readouterr().out
    assert "the training set: " in said
    assert "the batches: " not in said
    assert "Not equal: " in said


def test_runs_that_recorded_too_little_are_refused(trained):
    _, config = trained
    tracking = jobs_kit.store(config)
    bare = tracking.start_run("of another kind")
    with pytest.raises(RegistryError, check=of_kind("nothing_to_compare")):
        reproduce.run(config, reference=bare)
    tracking.log_metrics(bare, {"dev/audio/ccc_mean": 0.5})
    with pytest.raises(RegistryError, check=of_kind("no_setup")):
        reproduce.run(config, reference=bare)
    with pytest.raises(RegistryError, check=of_kind("no_such_run")):
        reproduce.run(config, reference="0" * 32)
