"""Several conditions in one annotate: each has its own tables, what does not depend on it is done once."""

from __future__ import annotations

import json

import pytest
from annotate_kit import CHEAP_STAGES, config_for, leave_out_encoder, make_corpus
from rich.console import Console

from emoray.lake.tables import Lake
from emoray.registry import tracking
from emoray.stages import pipeline
from emoray.stages.norms import Norms
from emoray_jobs.annotate import job as annotate
from emoray_jobs.annotate import plan as annotate_plan
from emoray_jobs.annotate import tracking as annotate_tracking
from emoray_jobs.annotate.state import state
from emoray_jobs.train.training_set import training_keys

CLIPS = 24
BOTH = "annotate.conditions.enrol_clips=[0]"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    leave_out_encoder(monkeypatch)


@pytest.fixture(scope="module")
def done(tmp_path_factory, ray_session):
    config = config_for(tmp_path_factory.mktemp("conditions"), BOTH)
    make_corpus(config.lake.root, CLIPS)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_encoder(patch)
        return config, annotate.run(config)


def text(rendered: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(rendered)
    return capture.get()


def test_what_does_not_depend_on_the_condition_is_done_once(done):
    _, result = done
    (unknown,) = result.further
    assert (result.condition, unknown.condition) == ("enrolled-5/reference", "unknown/reference")
    computed = {stage.name: (stage.computed, stage.reused) for stage in unknown.stages}
    audio, spoken = (0, CLIPS), (CLIPS, 0)
    assert computed == dict(zip(CHEAP_STAGES, [audio, audio, audio, spoken, spoken], strict=True))
    assert "speaker unknown, given words: emphasis 24, semantics 24, in" in text(annotate.render(result))


def test_each_condition_gives_what_its_norms_give_by_hand(done):
    config, _ = done
    lake = Lake(config.lake)
    found = state(lake, config.corpus.name, config.annotate)
    assert [one.name for one in found.conditions] == ["enrolled-5/reference", "unknown/reference"]
    rows = lake.utterances(config.corpus.name).to_pylist()
    for condition in found.conditions:
        norms = Norms.from_json(lake.read_json("norms", f"{condition.norms}.json"))
        stages = [*pipeline.audio_stages(config.annotate), *pipeline.text_stages(config.annotate, norms)]
        expected = pipeline.annotate_rows(stages, [dict(row) for row in rows], config.annotate.guard)["semantics"]
        table = lake.stage_outcomes("semantics", condition.fingerprints["semantics"], ["value"])
        values = dict(table.select("utterance_id", "value").collect().iter_rows())
        assert {name: value["text"] for name, value in values.items()} == {
            one.utterance_id: one.value["text"] for one in expected
        }
    assert norms.speakers == {}
    assert norms.hash == found.norms.without_speakers().hash


def test_enrolment_clips_count_as_clips_of_unknown_speakers_alone(done):
    config, _ = done
    lake = Lake(config.lake)
    found = state(lake, config.corpus.name, config.annotate)
    keys = training_keys(lake, config.corpus.name, config.annotate, found.conditions)
    assert keys["usable@unknown/reference"].all()
    numbers = {
        name: int((~part["usable@enrolled-5/reference"]).sum())
        for (name,), part in keys.group_by("speaker_id", maintain_order=True)
    }
    assert len(numbers) == 4
    assert set(numbers.values()) == {3}  # of six clips each: half of them, though five are asked for


def test_a_second_run_and_its_plan_find_nothing_to_do(done):
    config, _ = done
    plan = annotate_plan.run(config)
    assert {stage.compute for one in (plan, *plan.further) for stage in one.stages} == {0}
    assert "speaker unknown, given words: to compute nothing" in text(annotate_plan.render(plan))
    again = annotate.run(config)
    assert (again.computed, again.further[0].computed) == (0, 0)


def test_another_source_of_words_is_another_condition(done):
    config, _ = done
    more = config_for(config.lake.root, BOTH, "annotate.conditions.transcripts=[moonshine]")
    result = annotate.run(more)
    assert result.computed == 0
    heard = {one.condition: {stage.name: stage for stage in one.stages} for one in result.further}
    assert list(heard) == ["unknown/reference", "enrolled-5/moonshine", "unknown/moonshine"]
    assert heard["enrolled-5/moonshine"]["transcribe"].computed == CLIPS
    assert heard["enrolled-5/moonshine"]["prosody"].computed == 0
    assert heard["unknown/moonshine"]["transcribe"].computed == 0
    # A buzz has no words: that is an outcome, and the norms are those of the given words.
    assert {one.norms_hash for one in result.further[1:]} == {result.norms_hash, result.further[0].norms_hash}


def test_the_summary_of_every_condition_is_logged(done):
    config, result = done
    store = tracking.connect(config.tracking, Lake(config.lake))
    annotate_tracking.track(config.tracking, Lake(config.lake), config.annotate, result, status="FINISHED")
    (run,) = store.client.search_runs([store.experiment_id])
    path = store.client.download_artifacts(run.info.run_id, "summary/summary.json")
    with open(path, encoding="utf-8") as file:
        summary = json.load(file)
    assert [one["condition"] for one in (summary, *summary["further"])] == ["enrolled-5/reference", "unknown/reference"]
    assert summary["further"][0]["counts"]["complete"] == CLIPS
