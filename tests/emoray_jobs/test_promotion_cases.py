"""What promote must not do, through its verb: foreign versions, races, missing aliases and files, wrong columns."""

from __future__ import annotations

import json
import shutil

import jobs_kit
import polars as pl
import pytest
import scoring_kit
from error_kit import of_kind

from emoray.errors import InputError, RegistryError
from emoray.lake.tables import Lake
from emoray.registry import promotion, versions
from emoray.registry.champion import champions
from emoray.registry.history import History
from emoray_jobs import cli
from emoray_jobs.evaluate.predictions import find_version
from emoray_jobs.promote import job as promote
from emoray_jobs.promote.judge import Judge

CLASSES = ("bright", "dull")
#: Lets in whatever loads: what these tests are about is the way there.
LENIENT = (
    "promote.min_gain=-9",
    "promote.min_lower_bound=-9",
    "promote.max_loss={valence: null, arousal: null, dominance: null, uar: null}",
    "promote.max_condition_loss=null",
    "promote.max_group_loss=9",
    "promote.max_coverage_shortfall=null",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_session):
    """A lake with a corpus and four versions of untrained models of the sound; the fourth scores classes too."""
    root = tmp_path_factory.mktemp("cases")
    config = jobs_kit.config(root / "lake", *LENIENT)
    jobs_kit.write_corpus(Lake(config.lake))
    tracking = jobs_kit.store(config)
    tracking.client.create_registered_model(tracking.model_name)
    for seed in range(4):
        folder = root / f"version-{seed}"
        further = {"classes": list(CLASSES)} if seed == 3 else {}
        scoring_kit.make_bundle(folder / "artifacts" / "bundle", "acoustic", seed=seed, **further)
        (folder / "MLmodel").write_text("flavors: {}\n")
        run_id = tracking.start_run("trained")
        tracking.client.create_model_version(tracking.model_name, source=str(folder), run_id=run_id)
    return root


@pytest.fixture
def config(made, tmp_path):
    """The same with its own registry; audio and versions stay where they are."""
    shutil.copytree(made / "lake", tmp_path / "lake", ignore=shutil.ignore_patterns("audio", "ray"))
    return jobs_kit.config(tmp_path / "lake", f"tracking.artifact_root={made}/lake/mlartifacts", *LENIENT)


def emoray(config, *words):
    where = f"lake.root={config.lake.root}", f"tracking.artifact_root={config.tracking.artifact_root}"
    overrides = [f"--set={item}" for item in (*where, *jobs_kit.SMALL, *LENIENT)]
    return cli.main([words[0], *overrides, *words[1:]])


def champion(config):
    found = versions.find_alias(jobs_kit.store(config), "champion")
    return found and found.version


def with_policy(config, **changes):
    return config.model_copy(update={"promote": config.promote.model_copy(update=changes)})


def test_a_version_of_another_registered_model_is_refused_and_the_remedy_works(config, capsys):
    promote.run(config, version="1")
    tracking = jobs_kit.store(config)
    tracking.client.create_registered_model("other")
    for number in ("1", "2", "3"):
        own = versions.by_version(tracking, number)
        tracking.client.create_model_version("other", source=own.source, run_id=own.run_id)
    assert emoray(config, "promote", "--version", "models:/other/3") == 1
    said = capsys.readouterr().err
    assert "--set tracking.model_name=other" in said
    assert champion(config) == "1"
    assert emoray(config, "rollback", "--to", "models:/other/3") == 1
    assert "models:/other/3 is a version of another registered model" in capsys.readouterr().err
    assert emoray(config, "promote", "--version", "3", "--set", "tracking.model_name=other") == 0
    assert find_version(tracking, "models:/other@champion").uri == "models:/other/3"
    assert champion(config) == "1"
    # Addresses of our own are as good as numbers.
    assert emoray(config, "promote", "--version", f"models:/{tracking.model_name}/2") == 0
    assert emoray(config, "rollback", "--to", f"models:/{tracking.model_name}/1") == 0
    assert champion(config) == "1"


def while_judging(monkeypatch, happenings):
    """Something else happens each time that a version was judged, before the decision is carried out."""
    judge = Judge.judge

    def judged(self, *arguments):
        decision = judge(self, *arguments)
        if happenings:
            happenings.pop(0)()
        return decision

    monkeypatch.setattr(Judge, "judge", judged)


def test_of_two_promotions_at_once_the_second_is_judged_against_the_first(config, monkeypatch):
    promote.run(config, version="1")
    tracking = jobs_kit.store(config)

    def other():
        decision = promotion.Decision(True, (), "gate", {})
        three, one = (versions.by_version(tracking, number) for number in ("3", "1"))
        promotion.promote(tracking, three, decision, one)

    while_judging(monkeypatch, [other])
    result = promote.run(config, version="2")
    assert (result.previous, result.passed, champion(config)) == ("3", True, "2")
    assert champions(tracking) == ["1", "3", "2"]


def test_a_champion_that_keeps_changing_ends_the_command(config, monkeypatch):
    promote.run(config, version="1")
    tracking = jobs_kit.store(config)
    moves = [lambda to=to: versions.set_alias(tracking, "champion", versions.by_version(tracking, to)) for to in "343"]
    while_judging(monkeypatch, moves)
    with pytest.raises(RegistryError, check=of_kind("champion_changed")):
        promote.run(with_policy(config, same=()), version="2")
    assert (champion(config), moves) == ("3", [])


def test_a_deleted_alias_lets_nobody_in_unless_it_is_asked_for(config, capsys):
    promote.run(config, version="1")
    promote.run(config, version="2")
    client, name = jobs_kit.store(config).client, config.tracking.model_name
    client.delete_registered_model_alias(name, "champion")
    assert emoray(config, "promote", "--version", "3") == 1
    assert "emoray rollback --to 2" in capsys.readouterr().err
    assert champion(config) is None
    assert emoray(config, "rollback", "--to", "2") == 0
    assert "Version 2 of emoray is champion again.\n" in capsys.readouterr().out
    client.delete_registered_model_alias(name, "champion")
    assert emoray(config, "promote", "--version", "3", "--first") == 0
    assert champion(config) == "3"
    assert emoray(config, "rollback") == 0
    assert champion(config) == "2"


def test_a_deleted_predecessor_is_skipped_and_named(config, capsys):
    for number in ("1", "2", "3"):
        promote.run(config, version=number)
    jobs_kit.store(config).client.delete_model_version(config.tracking.model_name, "2")
    assert emoray(config, "rollback") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Version 1 of emoray is champion again; version 3 stepped down. Skipped version 2: " in said
    assert champion(config) == "1"


def test_a_version_whose_files_are_gone_is_named_and_nothing_is_decided(config, tmp_path):
    tracking = jobs_kit.store(config)
    run_id = tracking.start_run("trained")
    gone = tracking.client.create_model_version(tracking.model_name, source=str(tmp_path / "gone"), run_id=run_id)
    promote.run(config, version="1")
    with pytest.raises(RegistryError, check=of_kind("version_files_missing")):
        promote.run(config, version=str(gone.version))
    assert champion(config) == "1"
    assert [entry.kind for entry in History(tracking).entries()] == ["first"]


def test_groups_may_be_any_column_of_the_corpus_and_an_unknown_one_is_an_error(config):
    promote.run(config, version="1")
    known = with_policy(config, group_columns=("language", "duration"), min_group_clips=1)
    groups = promote.run(known, version="2").decision.figures["groups"]
    assert {entry["column"] for entry in groups} == {"language", "duration"}
    with pytest.raises(InputError, match="dialect", check=of_kind("unknown_group_column")):
        promote.run(with_policy(config, group_columns=("dialect",)), version="3")
    assert champion(config) == "2"


def test_a_corpus_of_classes_alone_is_judged_by_uar(config):
    lake = Lake(config.lake)
    table = pl.DataFrame(lake.utterances(jobs_kit.CORPUS))
    bright = pl.col("valence") > 0.4
    labelled = table.with_columns(
        emotion=pl.when(bright).then(pl.lit(CLASSES[0])).otherwise(pl.lit(CLASSES[1])),
        **{name: pl.lit(None, table.schema[name]) for name in ("valence", "arousal", "dominance")},
    )
    lake.write_utterances(jobs_kit.CORPUS, labelled.to_arrow().cast(lake.utterances(jobs_kit.CORPUS).schema))
    figures = promote.run(config, version="4").decision.figures
    assert figures["headline"] == "ua"
    assert 0 <= figures["challenger"]["estimate"] <= 1
    # For the others, which score no class, no clip has a label.
    with pytest.raises(InputError, check=of_kind("empty_split")):
        promote.run(config, version="1")
    assert champion(config) == "4"


def test_an_approval_is_a_tag_that_somebody_gives(config):
    asked = with_policy(config, approvals={"reviewed_by": "ann"}, required_tags=("ticket",))
    refused = promote.run(asked, version="1")
    assert [check.name for check in refused.decision.checks if not check.passed] == ["tags", "approvals"]
    tracking = jobs_kit.store(config)
    versions.tag_version(tracking, versions.by_version(tracking, "1"), {"reviewed_by": "ann", "ticket": 7})
    assert promote.run(asked, version="1").passed


def test_latency_may_be_compared_with_the_champions(config):
    promote.run(config, version="1")
    for ratio, passed in ((1e-9, False), (1e9, True)):
        checks = promote.run(with_policy(config, max_latency_ratio=ratio), version="2").decision.checks
        assert {check.name: check.passed for check in checks}["latency_ratio"] is passed


def test_attempts_count_and_a_dry_run_is_one(config):
    promote.run(config, version="1")
    strict = with_policy(config, min_gain=9.0)
    results = [promote.run(strict, version=number, dry_run=number == "2") for number in ("2", "3", "2")]
    assert [one.decision.figures["attempt"] for one in results] == [1, 2, 2]
    assert champion(config) == "1"
    kinds = [entry.kind for entry in History(jobs_kit.store(config)).entries()]
    assert kinds == ["first", "dry run", "refused", "dry run"]


def test_decisions_are_shown_to_people_and_machines(config, capsys):
    assert emoray(config, "history") == 0
    assert "Nothing was decided on emoray yet." in capsys.readouterr().out
    assert emoray(config, "promote", "--version", "1") == 0
    words = ("promote", "--version", "2", "--dry-run", "--json", "--set=promote.min_gain=9")
    assert emoray(config, *words) == 3
    decided = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert (decided["dry_run"], decided["passed"], decided["previous"], decided["number"]) == (True, False, "1", 2)
    assert champion(config) == "1"
    assert emoray(config, *words, "--refusal-is-success") == 0
    assert '"passed": false' in capsys.readouterr().out
    assert emoray(config, "history") == 0
    table = capsys.readouterr().out
    assert "version 2 dry run: gain" in table
    assert "none → 1" in table
    assert emoray(config, "history", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["champion"] == "1"
    assert [entry["kind"] for entry in shown["history"]] == ["first", "dry run", "dry run"]
    assert all(entry["facts"]["policy_digest"] and entry["facts"]["data_digest"] for entry in shown["history"])
    assert shown["history"][0]["command"] == "emoray promote --version 1"
    assert emoray(config, "promote", "--explain", "2") == 0
    explained = capsys.readouterr().out
    assert "Decision 2" in explained
    assert "less than the required gain (+9)" in explained
    assert emoray(config, "promote", "--explain", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["policy"]["min_gain"] == 9
    assert emoray(config, "promote", "--explain", "7") == 1
    assert "there is no decision 7" in capsys.readouterr().err
