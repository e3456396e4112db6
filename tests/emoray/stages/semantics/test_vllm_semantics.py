"""vLLM itself on tiny checkpoints: structured answers, rows that it refuses, clips that it hears."""

from __future__ import annotations

import threading
import time

import pytest
from adapter_kit import write_adapter
from checkpoint_kit import REFUSING_SYSTEM, THINKING, WITHOUT_SYSTEM

from emoray.engines import open_engine
from emoray.engines.budget import budget
from emoray.engines.local import any_hangs
from emoray.errors import ConfigError, ServiceError
from emoray.stages.guard import run_isolating_rows
from emoray.stages.semantics.record import SemanticsRecord
from emoray.stages.semantics.stage import build_semantics


@pytest.fixture(scope="session")
def written(configure, tiny, vllm_engine):
    """Configuration of a writer over a tiny model; all share one engine per model."""

    def semantics(kind, name, **changes):
        model = {"model": tiny(name), "sentence_characters": 40, "phrase_characters": 20, **changes}
        return configure({"semantics": {"kind": kind, kind: model, "engine": vllm_engine}}).semantics

    return semantics


@pytest.fixture
def rows(spoken):
    return spoken[:6]


def is_record(value):
    return SemanticsRecord(**{name: value[name] for name in SemanticsRecord.model_fields})


def test_text_answers_are_records_and_a_row_does_not_depend_on_its_neighbours(written, guard, norms, rows):
    stage = build_semantics(written("text_llm", "qwen2"), norms)
    together = run_isolating_rows(stage, rows, guard)
    assert [outcome.error for outcome in together] == [None] * len(rows)
    assert all(is_record(outcome.value) for outcome in together)
    assert len({outcome.value["text"] for outcome in together}) == len(rows)
    alone = [run_isolating_rows(stage, [dict(row)], guard)[0].value for row in reversed(rows)]
    assert alone == [outcome.value for outcome in reversed(together)]


def test_a_row_too_long_for_the_engine_is_its_own_error(written, guard, norms, rows):
    stage = build_semantics(written("text_llm", "qwen2"), norms)
    rows[2]["transcribe"] = {**rows[2]["transcribe"], "text": "and so on " * 3000}
    outcomes = run_isolating_rows(stage, rows, guard)
    assert [outcome.error and outcome.error["type"] for outcome in outcomes] == [
        *[None] * 2,
        "refused_by_engine",
        *[None] * 3,
    ]


def test_an_answer_that_is_cut_off_is_asked_for_again_and_then_is_an_error(written, guard, norms, rows):
    # As few as the bounds let pass: real tokenizers need fewer than the tiny one.
    stage = build_semantics(written("text_llm", "qwen2", max_tokens=84), norms)
    outcomes = run_isolating_rows(stage, rows[:2], guard)
    assert [outcome.error["type"] for outcome in outcomes] == ["answer_cut_off"] * 2
    assert "annotate.semantics.text_llm.max_tokens" in outcomes[0].error["message"]


def test_an_audio_model_hears_the_clip(written, guard, norms, rows):
    stage = build_semantics(written("audio_llm", "qwen2_audio"), norms)
    outcomes = run_isolating_rows(stage, rows, guard)
    assert [outcome.error for outcome in outcomes] == [None] * len(rows)
    assert len({outcome.value["text"] for outcome in outcomes}) == len(rows)
    changed = {**rows[0], "waveform": rows[1]["waveform"]}
    # The same words and measures, another sound.
    assert run_isolating_rows(stage, [changed], guard)[0].value["text"] != outcomes[0].value["text"]


def test_an_answer_that_comes_too_late_is_given_up_and_the_engine_goes_on(written, guard, norms, rows, monkeypatch):
    config = written("audio_llm", "qwen2_audio")
    stage = build_semantics(config, norms)
    (before,) = run_isolating_rows(stage, rows[:1], guard)
    # Paragraphs of random weights take much longer than a record, so one that is not given up is seen at the end.
    long = {"prompts": ["audio_llm_paragraph"], "paragraph_characters": 4000, "max_tokens": 1000}
    paragraphs = build_semantics(written("audio_llm", "qwen2_audio", **long), norms)
    core = open_engine(config.audio_llm.model, config.engine).llm.llm_engine
    step = core.step

    def slower_than_the_budget():
        # Some paragraph may still end after a few tokens: a slow engine makes sure that none ends in time.
        threading.Event().wait(0.4)
        return step()

    monkeypatch.setattr(core, "step", slower_than_the_budget)
    with budget(0.3):
        late = run_isolating_rows(paragraphs, [dict(row) for row in rows], guard)
    assert [outcome.value for outcome in late] == [None] * len(rows)
    assert {outcome.error["type"] for outcome in late} == {"out_of_time"}
    assert all(outcome.stays_to_do for outcome in late)
    monkeypatch.setattr(core, "step", step)
    (after,) = run_isolating_rows(stage, [dict(rows[0])], guard)
    assert after.value == before.value
    assert not core.has_unfinished_requests(), "rows that nobody waits for are still decoded"


def test_a_step_that_does_not_end_is_noticed_though_nobody_waits_for_it(
    tiny, configure, vllm_engine, guard, norms, rows
):
    limit_s = 5.0
    own = {"kind": "vllm", "vllm": {**vllm_engine["vllm"], "timeout_s": limit_s}}
    config = configure(
        {"semantics": {"kind": "text_llm", "text_llm": {"model": tiny("qwen2")}, "engine": own}}
    ).semantics
    core = open_engine(config.text_llm.model, config.engine).llm.llm_engine
    step, held = core.step, threading.Event()

    def hanging():
        held.wait(60)
        return step()

    core.step = hanging
    try:
        with budget(0.3):
            (late,) = run_isolating_rows(build_semantics(config, norms), rows[:1], guard)
        assert late.error["type"] == "out_of_time"
        assert not any_hangs()
        began = time.monotonic()
        while not any_hangs() and time.monotonic() - began < 4 * limit_s:
            time.sleep(0.05)  # between two looks at another thread's clock
        assert any_hangs()
    finally:
        held.set()
        core.step = step
    while any_hangs():
        time.sleep(0.05)


def test_free_text_and_several_prompts_with_examples(written, guard, norms, rows):
    paragraph = build_semantics(
        written("text_llm", "qwen2", prompts=["text_llm_paragraph"], paragraph_characters=4000, max_tokens=1000), norms
    )
    (outcome,) = run_isolating_rows(paragraph, rows[:1], guard)
    # Random weights rarely come to an end by themselves: what matters is that nothing held them to JSON.
    assert outcome.error is None or outcome.error["type"] == "answer_cut_off"
    assert "{" not in (outcome.value["text"] if outcome.value else outcome.error["message"].partition("begins")[2][:9])
    both = build_semantics(written("text_llm", "qwen2", prompts=["text_llm_v2", "text_llm_examples"]), norms)
    (outcome,) = run_isolating_rows(both, rows[:1], guard)
    assert len(set(outcome.value["texts"])) == 2


def test_a_model_that_vllm_cannot_run_is_no_rows_error(written, guard, norms, rows):
    stage = build_semantics(written("text_llm", "wavlm"), norms)
    with pytest.raises(ServiceError, match="vLLM cannot load"):
        run_isolating_rows(stage, rows, guard)


def described(written, guard, norms, rows, **changes):
    stage = build_semantics(written("text_llm", "qwen2", **changes), norms)
    outcomes = run_isolating_rows(stage, [dict(row) for row in rows], guard)
    assert [outcome.error for outcome in outcomes] == [None] * len(rows)
    return [outcome.value["text"] for outcome in outcomes]


@pytest.mark.parametrize("template", [WITHOUT_SYSTEM, REFUSING_SYSTEM])
def test_instructions_reach_a_model_whose_template_has_no_place_for_them(written, guard, norms, rows, template):
    def texts(system_turn):
        chat = {"template": template, "system_turn": system_turn}
        return described(written, guard, norms, rows[:2], chat=chat)

    assert texts("auto") == texts("fold")
    if template == WITHOUT_SYSTEM:
        assert texts("keep") != texts("fold")


def test_arguments_reach_the_template(written, guard, norms, rows):
    plain, thinking = (
        described(written, guard, norms, rows[:2], chat={"template": THINKING, "template_kwargs": kwargs})
        for kwargs in ({"enable_thinking": False}, {})
    )
    assert plain == described(written, guard, norms, rows[:2])
    assert plain != thinking


def test_a_template_that_cannot_be_rendered_is_no_rows_error(written, guard, norms, rows):
    stage = build_semantics(written("text_llm", "qwen2", chat={"template": "{{ raise_exception('no') }}"}), norms)
    with pytest.raises(ConfigError) as caught:
        run_isolating_rows(stage, rows, guard)
    assert caught.value.kind == "bad_chat_template"


def test_an_adapter_changes_what_is_said(written, guard, norms, rows, tiny, tmp_path):
    adapters = [str(write_adapter(tiny("qwen2"), tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    said = [described(written, guard, norms, rows[:2], adapter=adapter) for adapter in (None, *adapters)]
    assert len({tuple(texts) for texts in said}) == 3
