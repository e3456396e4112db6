"""annotate --plan and the summary: what is said before and after the work, held against the work."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import ray
from annotate_kit import STAGES, config_for, make_corpus, plain_encoder
from rich.console import Console

from emoray.lake.tables import Lake
from emoray_jobs.annotate import job as annotate
from emoray_jobs.annotate import plan as annotate_plan
from emoray_jobs.annotate import summary
from emoray_jobs.annotate import tracking as annotate_tracking
from emoray_jobs.cluster import hardware

CLIPS = 32


@pytest.fixture(scope="module", autouse=True)
def _without_libraries():
    with pytest.MonkeyPatch.context() as monkeypatch:
        plain_encoder(monkeypatch)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory, ray_session):
    """A lake with every utterance annotated, its run tracked, and what the run said."""
    # Batches enough that no process sees but one, which could not tell loading from working.
    wanted = ("summary.track=true", "annotate.batch_rows=2")
    config = config_for(tmp_path_factory.mktemp("done"), *wanted)
    make_corpus(config.lake.root, CLIPS)
    return config, annotate.run(config)


def printed(renderable) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def changed(config, *overrides):
    return config_for(config.lake.root, "plan.price_per_cpu_hour=0.5", *overrides)


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("annotate.semantics.cues.against=corpus", ["semantics", "embed_semantics"]),
        # Without word times there are other norms; emphasis then has errors, which are outcomes like any other.
        ("annotate.transcribe.reference.times=none", ["transcribe", *STAGES[3:]]),
    ],
)
def test_a_change_recomputes_exactly_what_the_plan_says(done, override, stages):
    config, _ = done
    other = changed(config, override, "annotate.max_error_fraction=1")
    plan = annotate_plan.run(other)
    said = {stage.name: (stage.compute, stage.reuse) for stage in plan.stages}
    assert said == {name: (CLIPS, 0) if name in stages else (0, CLIPS) for name in STAGES}
    result = annotate.run(other)
    assert {stage.name: (stage.computed, stage.reused) for stage in result.stages} == said
    assert {stage.compute for stage in annotate_plan.run(other).stages} == {0}


def test_the_plan_knows_time_and_price_from_what_was_measured(done):
    config, _ = done
    lake = Lake(config.lake)
    lake.write_utterances("buzz-again", lake.utterances(config.corpus.name))
    plan = annotate_plan.run(changed(config, "corpus.name=buzz-again"))
    # Norms are per corpus, so every text stage is new; what they cost is known from the other corpus.
    assert [stage.compute for stage in plan.stages] == [0, 0, 0, CLIPS, CLIPS, CLIPS, CLIPS]
    assert [pool.stages for pool in plan.pools] == [STAGES[3:5], STAGES[5:]]
    assert all(stage.work_s > 0 and stage.measured_rows > 0 for stage in plan.stages[3:])
    assert plan.seconds >= max(stage.work_s for stage in plan.stages) / plan.machines.cpus
    assert plan.price == pytest.approx(plan.seconds / 3600 * plan.machines.cpus * 0.5)
    said = printed(annotate_plan.render(plan))
    assert f"price: about {plan.price:,.2f}" in said
    for stage in plan.stages:
        # Each on its own line, whether it has something to do or not.
        assert stage.cost.corpus.hours == pytest.approx((stage.work_s or 0.0) / 3600)
        assert stage.cost.thousand.price == pytest.approx(stage.cost.thousand.hours * 0.5)
        if stage.compute:
            assert stage.cost.thousand.hours == pytest.approx(stage.work_s / stage.audio_s * 1000)
        assert re.search(rf"{stage.name} .* core-h .*measured: \d+ rows", said)
    total = sum(stage.cost.thousand.price for stage in plan.stages)
    sum_said = re.search(r"price of 1,000 hours of speech: (\S+)\n", said)
    assert float(sum_said[1].replace(",", "")) == pytest.approx(total, rel=0.06)


def test_what_was_never_measured_is_unknown_until_it_is_calibrated(tmp_path, ray_session):
    config = config_for(tmp_path, "plan.calibrate_rows=12")
    make_corpus(tmp_path, 15)
    plan = annotate_plan.run(config)
    assert (plan.seconds, plan.price) == (None, None)
    said = printed(annotate_plan.render(plan))
    assert "time: unknown" in said
    assert all(stage.cost.thousand is None and stage.cost.basis == "unknown" for stage in plan.stages)
    assert "price of" not in said
    measured = annotate_plan.run(config, calibrate=True)
    assert all(stage.work_s > 0 and 0 < stage.measured_rows <= 12 for stage in measured.stages)
    assert measured.seconds > 0
    # Nothing but the costs was written, and they are kept.
    assert sorted(os.listdir(tmp_path)) == ["audio", "calibration", "utterances"]
    again = annotate_plan.run(config)
    assert (again.stages, again.seconds) == (measured.stages, measured.seconds)


def test_the_summary_says_how_busy_the_pools_were(done):
    _, result = done
    pools = {pool.name: pool for pool in result.resources.pools}
    assert set(pools) == {"decode+prosody+transcribe", "emphasis+semantics", "embed_transcript+embed_semantics"}
    spent_s = {stage.name: stage.busy_s for stage in result.stages}
    for name, pool in pools.items():
        assert 0 < pool.busy_share <= 1
        # The stages' own clocks stand within the pool's.
        assert sum(spent_s[stage] for stage in name.split("+")) <= pool.busy_s
    assert result.resources.spilled_bytes == 0
    assert "spilled to disk: 0 MiB" in printed(summary.render(result))


def test_the_summary_holds_what_each_stage_took_against_the_plan(done):
    config, result = done
    first = {one.name: one for one in result.resources.spending}
    assert set(first) == set(STAGES)
    assert all(one.device == "core" and one.planned_s is None and one.spent_s > 0 for one in first.values())
    again = changed(config, "annotate.norms.enrol_clips=3")  # other norms, and the same work for every text stage
    plan = {stage.name: stage.work_s for stage in annotate_plan.run(again).stages}
    after = annotate.run(again)
    spending = after.resources.spending
    assert {one.name: one.planned_s for one in spending} == pytest.approx({name: plan[name] for name in STAGES[3:]})
    text = printed(summary.render(after))
    for one in spending:
        assert one.spent_s > 0
        price = (one.spent_s + one.loading_s) / 3600 * 0.5
        assert re.search(rf"{one.name} .* {one.planned_s:,.1f} s .* core-s .* {price:,.4f}", text), one.name


def test_spilled_bytes_are_those_that_ray_wrote(ray_session):
    before = hardware.spilled_bytes()
    kept = [ray.put(np.full(128 * 2**20, place, np.uint8)) for place in range(6)]  # into a store of 512 MiB
    assert hardware.spilled_bytes() - before >= 128 * 2**20
    assert [int(ray.get(one)[0]) for one in kept] == list(range(6))


def test_the_summary_is_a_run_in_the_tracking_store(done):
    from emoray.registry import tracking

    config, result = done
    store = tracking.connect(config.tracking, Lake(config.lake))
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["fingerprint.semantics"] == result.fingerprints["semantics"]
    assert run.data.metrics["complete"] == CLIPS
    assert run.data.metrics["prosody.real_time_factor"] == pytest.approx(result.stages[1].real_time_factor)
    path = store.client.download_artifacts(run.info.run_id, "summary/summary.json")
    with open(path, encoding="utf-8") as file:
        assert json.load(file)["counts"]["complete"] == CLIPS
    annotate.run(config)  # with nothing to do
    assert len(store.client.search_runs([store.experiment_id])) == 1


def test_a_tracking_store_that_is_away_costs_a_warning(done, caplog):
    config, result = done
    away = changed(config, "tracking.uri=http://127.0.0.1:9").tracking
    annotate_tracking.track(away, Lake(config.lake), config.annotate, result, status="FINISHED")
    assert "the summary could not be logged: http://127.0.0.1:9" in caplog.text
