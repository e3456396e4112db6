"""annotate with semantics by a language model: rows, prompts and engines that come and go."""

from __future__ import annotations

import json
import threading

import pytest
from annotate_kit import by_hand, config_for, leave_out_encoder, make_corpus, stored
from engine_kit import RECORD, serving

from emoray.errors import ServiceError
from emoray.lake.tables import Lake
from emoray_jobs.annotate import job as annotate
from emoray_jobs.annotate import plan as annotate_plan
from emoray_jobs.annotate.state import state as annotation_state

CLIPS = 8
PROMPT = "version: {version}\nsystem: s\nuser: '{{transcript}} / {{delivery}}'\nrepair: '{{problem}}'\n"
SEMANTICS = "annotate.semantics"
ENDPOINT = f"{SEMANTICS}.engine.endpoint"


@pytest.fixture
def short(monkeypatch):
    leave_out_encoder(monkeypatch)


def asking(root, url, prompt):
    return config_for(
        root,
        f"{SEMANTICS}.kind=text_llm",
        f"{SEMANTICS}.engine.kind=endpoint",
        f"{SEMANTICS}.text_llm.model=some",
        f"{SEMANTICS}.text_llm.revision=r1",
        f"{SEMANTICS}.text_llm.prompts=[{prompt}]",
        f"{ENDPOINT}.url={url}",
        f"{ENDPOINT}.max_attempts=2",
        f"{ENDPOINT}.backoff_s=0.01",
        "annotate.guard.backoff_s=0.01",
        "annotate.max_error_fraction=0.2",
    )


def test_a_changed_prompt_file_recomputes_what_the_plan_says_and_a_bad_answer_is_its_rows(ray_session, tmp_path):
    lock, refused = threading.Lock(), []

    def script(body):
        """The first row that comes is refused for good, whoever sends it."""
        asked = body["messages"][1]["content"]
        with lock:
            if not refused:
                refused.append(asked)
        return (400, "not this one") if asked == refused[0] else (200, json.dumps(RECORD))

    root, prompt = tmp_path / "lake", tmp_path / "prompt.yaml"
    make_corpus(root, CLIPS)
    prompt.write_text(PROMPT.format(version=1))
    with serving(script) as (url, seen):
        config = asking(root, url, prompt)
        first = annotate.run(config)
        assert len(seen) == CLIPS
        tables = stored(config, first.fingerprints)
        failed = tables["semantics"].filter(tables["semantics"]["error"].is_not_null())
        assert failed["error"].struct.field("type").to_list() == ["refused_by_engine"]
        assert first.counts.partial == 1
        assert annotate.run(config).computed == 0
        prompt.write_text(PROMPT.format(version=2))
        said = {stage.name: stage.compute for stage in annotate_plan.run(config).stages if stage.compute}
        assert said == {"semantics": CLIPS, "embed_semantics": CLIPS}
        second = annotate.run(config)
        assert {stage.name: stage.computed for stage in second.stages if stage.computed} == said
        assert len(seen) == 2 * CLIPS


def test_an_engine_that_is_away_costs_no_row_and_the_same_command_goes_on(ray_session, short, tmp_path):
    status = [503]

    def script(body):
        return status[0], json.dumps(RECORD) if status[0] == 200 else "loading the model"

    root, prompt = tmp_path / "lake", tmp_path / "prompt.yaml"
    make_corpus(root, CLIPS)
    prompt.write_text(PROMPT.format(version=1))
    with serving(script) as (url, _):
        config = asking(root, url, prompt)
        with pytest.raises(ServiceError, match="loading the model"):
            annotate.run(config)
        status[0] = 200
        result = annotate.run(config)
    assert result.counts.complete == CLIPS
    assert {stage.name: stage.computed for stage in result.stages if stage.computed}["semantics"] == CLIPS


def test_vllm_on_ray_gives_what_it_gives_in_a_bare_loop(ray_session, short, tmp_path, tiny, vllm_engine):
    make_corpus(tmp_path, CLIPS)
    config = config_for(
        tmp_path,
        f"{SEMANTICS}.kind=text_llm",
        f"{SEMANTICS}.text_llm.model={tiny('qwen2')}",
        f"{SEMANTICS}.text_llm.phrase_characters=20",
        f"{SEMANTICS}.text_llm.sentence_characters=40",
        f"{SEMANTICS}.engine.vllm.max_context_tokens={vllm_engine['vllm']['max_context_tokens']}",
    )
    result = annotate.run(config)
    assert result.counts.complete == CLIPS
    expected = by_hand(config, annotation_state(Lake(config.lake), config.corpus.name, config.annotate))["semantics"]
    table = stored(config, result.fingerprints)["semantics"]
    assert dict(zip(table["utterance_id"], table["value"].to_list(), strict=True)) == {
        name: outcome.value for name, outcome in expected.items()
    }
    assert len({value["text"] for value in table["value"].to_list()}) > 1
