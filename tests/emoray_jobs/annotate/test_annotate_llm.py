"""annotate with semantics by a language model: rows, prompts and engines that come and go."""

from __future__ import annotations

import json
import threading

import pytest
from annotate_kit import SENTENCE, by_hand, config_for, leave_out_encoder, make_corpus, stored
from engine_kit import RECORD, Act, serving
from rich.console import Console

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


def asking(root, url, prompt, *overrides):
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
        f"{ENDPOINT}.patience_s=0.2",
        "annotate.guard.backoff_s=0.01",
        "annotate.max_error_fraction=0.2",
        *overrides,
    )


def printed(renderable):
    console = Console(width=140)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


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


def test_a_model_that_hears_gets_words_and_measures_and_its_tokens_are_counted_and_priced(ray_session, short, tmp_path):
    usage = {"prompt_tokens": 300, "completion_tokens": 100}
    choice = {"message": {"role": "assistant", "content": json.dumps(RECORD)}, "finish_reason": "stop"}
    root, prompt = tmp_path / "lake", tmp_path / "prompt.yaml"
    make_corpus(root, CLIPS)
    prompt.write_text(PROMPT.format(version=1))

    def hearing(url):
        return asking(
            root,
            url,
            prompt,
            f"{SEMANTICS}.kind=audio_llm",
            f"{SEMANTICS}.audio_llm.model=some",
            f"{SEMANTICS}.audio_llm.revision=r1",
            f"{SEMANTICS}.audio_llm.prompts=[{prompt}]",
            "plan.price_per_million_tokens_read=2",
            "plan.price_per_million_tokens_written=10",
        )

    with serving(lambda body: Act(body={"choices": [choice], "usage": usage})) as (url, seen):
        config = hearing(url)
        result = annotate.run(config)
        assert result.counts.complete == len(seen) == CLIPS
        for asked in seen:
            sound, text = asked["messages"][1]["content"]
            assert sound["type"] == "input_audio"
            assert SENTENCE.split()[0].lower() in text["text"].lower()
            assert "Voice " in text["text"]
        # Decoded in both passes, with one outcome.
        assert [stage.name for stage in result.stages].count("decode") == 1
        assert result.stages[0].computed == CLIPS
        (spent,) = [one for one in result.resources.spending if one.name == "semantics"]
        assert (spent.device, spent.tokens_read, spent.tokens_written) == ("endpoint", 300 * CLIPS, 100 * CLIPS)
        assert f"semantics: {300 * CLIPS:,} tokens read, {100 * CLIPS:,} written" in printed(annotate.render(result))
        assert annotate.run(config).computed == 0
        prompt.write_text(PROMPT.format(version=2))
        plan = annotate_plan.run(config)
        assert {stage.name: stage.compute for stage in plan.stages if stage.compute} == {"semantics": CLIPS}
        # No clip lacks its outcome of decode, and yet it is work: to be heard they are decoded again.
        assert [pool.stages for pool in plan.pools] == [("decode",), ("semantics",)]
    with serving(lambda body: Act(body={"choices": [choice], "usage": usage})) as (url, _):
        again = annotate.run(hearing(url))
    assert [stage.computed for stage in again.stages if stage.name in ("decode", "semantics")] == [0, CLIPS]


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
