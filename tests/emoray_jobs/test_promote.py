"""Evaluation, the promotion gate, refusal and rollback, over really trained little models."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jobs_kit
import polars as pl
import pytest
import scoring_kit
from error_kit import of_kind

from emoray.errors import ConfigError, InputError, RegistryError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.scoring.bundle import open_bundle
from emoray_jobs import cli
from emoray_jobs.annotate import job as annotate
from emoray_jobs.evaluate import compare, leaderboard, predictions, robustness
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.promote import job as promote
from emoray_jobs.promote import judge
from emoray_jobs.train import job as train
from emoray_jobs.train.register import ANNOTATE_RUN

ACOUSTIC, MSF_SER = "1", "2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, ray_session):
    """A lake with an annotated corpus, an acoustic model and MSF-SER, the challenger; there is no champion."""
    root = tmp_path_factory.mktemp("trained") / "lake"
    config = jobs_kit.config(root)
    jobs_kit.write_corpus(Lake(config.lake))
    annotate.run(config)
    assert train.run(jobs_kit.config(root, "model.name=acoustic")).version == ACOUSTIC
    trained = train.run(jobs_kit.config(root, "train.epochs=12"))
    assert trained.version == MSF_SER
    client = jobs_kit.store(config).client
    annotated = client.get_run(client.get_run(trained.run_id).data.tags[ANNOTATE_RUN])
    assert (annotated.info.run_name, annotated.data.tags["emoray.verb"]) == ("annotate tiny", "annotate")
    return root


@pytest.fixture
def config(trained, tmp_path):
    """The same with its own registry and tables; audio and artifacts stay where they are."""
    root = tmp_path / "lake"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("audio", "mlartifacts", "ray"))
    return jobs_kit.config(root, f"tracking.artifact_root={trained}/mlartifacts")


def where(config):
    """Settings of the lake and its artifacts."""
    return f"lake.root={config.lake.root}", f"tracking.artifact_root={config.tracking.artifact_root}"


def same_lake(config, *overrides):
    """The same lake with other options."""
    return jobs_kit.config(config.lake.root, *where(config), *overrides)


def named(config, alias):
    found = versions.find_alias(jobs_kit.store(config), alias)
    return found.version if found else None


def test_without_a_champion_there_is_nothing_to_beat(config):
    result = promote.run(config)
    assert (result.version, result.previous, result.passed) == (MSF_SER, None, True)
    assert (named(config, "champion"), named(config, "challenger")) == (MSF_SER, None)
    assert result.decision.split == "gate"


def test_a_better_challenger_replaces_the_champion_and_rollback_returns_it(config):
    # Four speakers of six clips leave a wide interval around a gain in arousal.
    wide = same_lake(config, "promote.max_loss.arousal=0.3")
    promote.run(wide, version=ACOUSTIC)
    result = promote.run(wide, version=MSF_SER)
    assert (result.passed, result.previous) == (True, ACOUSTIC), result.decision.reasons
    assert result.decision.figures["difference"]["low"] > 0
    assert named(config, "champion") == MSF_SER

    back = promote.rollback(config)
    assert (back.stepped_down, back.champion) == (MSF_SER, ACOUSTIC)
    assert named(config, "champion") == ACOUSTIC
    with pytest.raises(RegistryError, check=of_kind("no_previous_champion")):
        promote.rollback(config)


def test_a_worse_challenger_is_refused_and_that_is_on_record(config, capsys):
    promote.run(config, version=MSF_SER)
    overrides = [f"--set={item}" for item in (*where(config), *jobs_kit.SMALL)]
    assert cli.main(["promote", "--version", ACOUSTIC, *overrides]) == 3
    assert f"Refused: version {ACOUSTIC}" in capsys.readouterr().out
    assert named(config, "champion") == MSF_SER
    version = versions.by_version(jobs_kit.store(config), ACOUSTIC)
    assert version.tags["emoray.decision"] == "refused"
    with pytest.raises(RegistryError, check=of_kind("no_previous_champion")):
        promote.rollback(config)


def test_a_version_that_does_not_load_elsewhere_is_refused(config, trained):
    strict = same_lake(config, "promote.clean_process=true", "promote.clean_process_timeout_s=0.01")
    result = promote.run(strict)
    assert not result.passed
    assert "no answer within 0.01 s" in result.decision.reasons[0]
    assert named(config, "champion") is None


def test_errors_say_what_is_missing(config, tmp_path):
    with pytest.raises(RegistryError, check=of_kind("no_champion")):
        promote.rollback(config)
    promote.run(config)
    with pytest.raises(RegistryError, check=of_kind("already_champion")):
        promote.run(config, version=MSF_SER)
    with pytest.raises(RegistryError, check=of_kind("no_challenger")):
        promote.run(config)
    with pytest.raises(RegistryError, check=of_kind("no_such_version")):
        evaluate.run(config, model="9")
    with pytest.raises(RegistryError, match="'nobody'", check=of_kind("no_champion")):
        evaluate.run(config, model="models:/nobody@champion")
    with pytest.raises(InputError, check=of_kind("bad_model_address")):
        evaluate.run(config, model="models:/emoray")


def test_the_report_has_every_level_and_test_is_scored_once(config, monkeypatch):
    result = evaluate.run(config, model=MSF_SER)
    report = result.reports[0]
    levels = report.metrics["levels"]
    assert list(levels) == ["audio", "transcript", "full"]
    assert report.metrics["n_clips"] == 18
    full, audio = levels["full"]["metrics"]["ccc_mean"], levels["audio"]["metrics"]["ccc_mean"]
    assert full["low"] <= full["estimate"] <= full["high"]
    assert full["estimate"] > audio["estimate"] + 0.1
    assert levels["full"]["coverage"].keys() == {"valence", "arousal", "dominance"}
    lake, tracking = Lake(config.lake), jobs_kit.store(config)
    assert lake.exists("reports", "emoray", MSF_SER, "test", "report.html")
    run_id = versions.by_version(tracking, MSF_SER).run_id
    assert {item.path for item in tracking.client.list_artifacts(run_id, "report/test")} >= {"report/test/report.html"}
    points = jobs_kit.logged(tracking.client, run_id)
    assert points["test/full/ccc_mean", 0] == pytest.approx(full["estimate"])

    # Nothing may score the test split again, not even for a report with other options.
    scored = []
    original = evaluate.predictions

    def spy(lake, bundle, splits, levels, **sections):
        scored.append(splits)
        return original(lake, bundle, splits, levels, **sections)

    monkeypatch.setattr(evaluate, "predictions", spy)
    assert evaluate.run(config, model=MSF_SER).reports[0].reused
    other = evaluate.run(same_lake(config, "evaluate.interval_level=0.9"), model=MSF_SER)
    assert not other.reports[0].reused
    assert other.reports[0].metrics["levels"]["full"]["metrics"]["ccc_mean"]["estimate"] == full["estimate"]
    assert scored == [["dev"]]
    assert jobs_kit.logged(tracking.client, run_id) == points


def test_a_version_whose_annotations_are_gone_is_judged_from_the_audio(config, trained):
    import contextlib

    lake, tracking = Lake(config.lake), jobs_kit.store(config)
    bundle = open_bundle(versions.fetch(tracking, versions.by_version(tracking, MSF_SER)))
    sections = {name: getattr(config, name) for name in ("annotate", "cluster", "launch")}
    with contextlib.ExitStack() as stack:
        given = {"corpus": config.corpus.name, **sections, "stack": stack}
        stored = predictions.predictions(lake, bundle, ["gate"], ["audio", "full"], **given)
        lake.fs.rm(lake.path("annotations"), recursive=True)
        made = predictions.predictions(lake, bundle, ["gate"], ["audio", "full"], **given)
    keys = ["utterance_id", "level"]
    for name in ("valence_pred", "arousal_pred", "dominance_pred"):
        left, right = (frame.sort(keys).select(pl.col(name).clip(0, 1)).to_series() for frame in (stored, made))
        assert left.to_list() == pytest.approx(right.to_list(), abs=1e-4)


def test_two_versions_are_compared_on_the_same_clips(config, capsys):
    result = compare.run(config, first=MSF_SER, second=ACOUSTIC)
    (split,) = result.splits
    # The acoustic model hears no text: at the level of both, and with all that each hears.
    assert list(split.levels) == ["audio", compare.FULLEST]
    for figures in split.levels.values():
        for one in figures.values():
            assert one["difference"]["estimate"] == pytest.approx(one["first"]["estimate"] - one["second"]["estimate"])
            assert one["difference"]["low"] <= one["difference"]["high"]
    best = split.levels[compare.FULLEST]["ccc_mean"]
    reported = result.first.reports[0].metrics["levels"]["full"]["metrics"]["ccc_mean"]
    assert best["first"]["estimate"] == pytest.approx(reported["estimate"])
    swapped = compare.run(config, first=ACOUSTIC, second=MSF_SER).splits[0].levels[compare.FULLEST]["ccc_mean"]
    assert swapped["difference"]["estimate"] == pytest.approx(-best["difference"]["estimate"])
    assert (split.n_clips, split.left_out, split.unit) == (18, 0, "speaker")

    overrides = [f"--set={item}" for item in (*where(config), *jobs_kit.SMALL)]
    assert cli.main(["evaluate", "--compare", MSF_SER, ACOUSTIC, *overrides]) == 0
    assert "difference" in capsys.readouterr().out
    assert cli.main(["evaluate", "--compare", MSF_SER, MSF_SER, *overrides]) != 0
    assert "both version 2" in capsys.readouterr().err


def test_the_leaderboard_holds_every_version_best_first(config):
    promote.run(config, version=ACOUSTIC)
    result = leaderboard.run(config)
    (board,) = result.splits
    assert [row.aliases for row in board.standings] == [["challenger"], ["champion"]]
    assert [row.result.version for row in board.standings] == [MSF_SER, ACOUSTIC]
    assert [row.report.fullest for row in board.standings] == ["full", "audio"]
    first, second = board.standings
    assert first.difference is None
    gap = second.report.best["ccc_mean"]["estimate"] - first.report.best["ccc_mean"]["estimate"]
    assert second.difference["estimate"] == pytest.approx(gap)
    assert second.difference["high"] < 0
    page = Path(result.page).read_text(encoding="utf-8")
    assert page.count("<tr><th>") == 2 + 1  # both, and the heading
    assert "emoray leaderboard --set lake.root=" in page
    assert "<script" not in page
    assert leaderboard.run(config) == result  # anybody can make it again


def test_robustness_scores_the_same_clips_under_each_condition_once(trained, config, monkeypatch):
    small = ("robustness.clips=9", "robustness.snr_db=[-10]", "robustness.codecs=[g711]", "robustness.speeds=[1.25]")
    few = same_lake(config, *small, "robustness.word_errors=[1.0]")
    result = robustness.run(few)
    found = {one["name"]: one for one in result.report.metrics["conditions"]}
    assert [one["kind"] for one in found.values()] == [
        *("clean", "noise", "codec", "speed", "words", "semantics", "semantics"),
    ]
    assert found["as they are"]["loss"] is None
    assert found["white noise, -10 dB"]["loss"]["estimate"] < 0
    for one in found.values():
        assert one["metrics"]["ccc_mean"]["n_clips"] == 9
        if one["loss"] is not None:
            gap = one["metrics"]["ccc_mean"]["estimate"] - found["as they are"]["metrics"]["ccc_mean"]["estimate"]
            assert one["loss"]["estimate"] == pytest.approx(gap)
    assert Path(result.report.page).is_file()
    assert Path(result.report.page).with_name("robustness.png").is_file()
    monkeypatch.setattr(robustness, "corpus_scorer", None)  # what was scored is not scored again
    again = robustness.run(few)
    assert (again.report.reused, again.report.metrics) == (True, result.report.metrics)


def test_each_condition_is_judged_as_often_as_it_counts(tmp_path):
    bundle = open_bundle(scoring_kit.make_bundle(tmp_path / "b"))
    sound = open_bundle(scoring_kit.make_bundle(tmp_path / "a", "acoustic"))
    enrolled, unknown = (one.name for one in bundle.conditions)
    options = jobs_kit.config(tmp_path).promote
    assert judge.conditions([bundle, sound], options) == [enrolled, unknown]
    weighted = options.model_copy(update={"conditions": {unknown: 3, enrolled: 1}})
    assert judge.conditions([bundle, sound], weighted) == [enrolled, unknown, unknown, unknown]
    assert judge.conditions([bundle], options.model_copy(update={"conditions": {unknown: 1}})) == [unknown]
    assert judge.conditions([sound], options) == [judge.FIRST]
    # Sound against the speaker is the same whatever the words come from, so recognised words are judged too.
    norms = {"kind": "logmel", "speaker_norms": True}
    against = open_bundle(scoring_kit.make_bundle(tmp_path / "n", "acoustic", encoder=norms))
    heard = "unknown/moonshine"
    more = dataclasses.replace(
        bundle, conditions=(*bundle.conditions, dataclasses.replace(bundle.conditions[1], name=heard))
    )
    assert judge.conditions([more, against], options) == [enrolled, unknown, heard]
    assert judge.level_under(against, "full", heard) == f"audio/{unknown}"
    assert judge.conditions([against, sound], options) == [enrolled, unknown]
    with pytest.raises(ConfigError, check=of_kind("unknown_condition")):
        judge.conditions([bundle], options.model_copy(update={"conditions": {"unknown/whisper": 1}}))
