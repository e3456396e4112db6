"""Semantics by language models: what is asked, what is made of the answers, and what the fingerprint depends on."""

from __future__ import annotations

import json

import pytest
from engine_kit import RECORD, endpoint_config, serving
from jsonschema import Draft202012Validator

from emoray.errors import ConfigError, ServiceError
from emoray.stages.guard import run_isolating_rows
from emoray.stages.pipeline import fingerprints
from emoray.stages.semantics.prompt import read_prompt
from emoray.stages.semantics.record import PHRASE_CHARACTERS, SemanticsRecord, decoding_schema, render_semantics
from emoray.stages.semantics.stage import build_semantics

PROMPT = "version: 7\nsystem: Be brief.\nuser: 'Said: {transcript} Measured: {delivery}'\nrepair: 'No: {problem}'\n"


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(PROMPT)
    return path


def over(kind, url, **changes):
    endpoint = endpoint_config(url).model_dump(mode="json")
    return {"semantics": {"kind": kind, kind: {"model": "some", "revision": "r1", **changes}, "engine": endpoint}}


@pytest.fixture
def row(speak):
    words = [("What", 0.1, 0.3, 120, -20), ("a", 0.35, 0.4, 115, -22), ("day", 0.8, 1.3, 180, -15)]
    marked = [{"word": word[0], "emphasised": word[0] == "day", "prominence": 0.0} for word in words]
    return speak(words, 1.5, emphasis={"words": marked})


def answering(*texts):
    """Answers a conversation's n-th turn with the n-th text."""
    return lambda body: (200, texts[sum(message["role"] == "assistant" for message in body["messages"])])


def described(configure, guard, plain_norms, rows, url, **changes):
    stage = build_semantics(configure(over("text_llm", url, **changes)).semantics, plain_norms)
    return run_isolating_rows(stage, rows, guard)


def test_the_model_reads_capitals_and_cues_and_the_prefix_is_the_same_for_all(configure, plain_norms, row, prompt):
    stage = build_semantics(configure(over("text_llm", None, prompt=str(prompt))).semantics, plain_norms)
    question = stage.question(row)
    assert question.system == "Be brief."
    # Word for word: if what the model reads changes, the stage's version must be raised.
    assert stage.version == 3
    assert question.user == (
        "Said: What a DAY Measured: Voice very much quieter, pitch very much higher, melody very much wider, pace very"
        " much faster, pausing as usual, intonation very much more rising, loudness very much more swelling, voicing"
        " slightly denser, pitch line as usual. Compared with the usual: 17 dB quieter, 10 semitones higher."
    )
    plain = stage.question({name: value for name, value in row.items() if name != "emphasis"})
    assert plain.user.startswith("Said: What a day Measured: ")


def test_letters_that_grow_in_capitals_move_no_other_word(configure, plain_norms, row, prompt):
    stage = build_semantics(configure(over("text_llm", None, prompt=str(prompt))).semantics, plain_norms)
    text = "der Spaß war {groß} heute"
    words = [{"word": word, "emphasised": word in ("Spaß", "heute"), "prominence": 0.0} for word in text.split()]
    row["transcribe"]["text"] = text
    row["emphasis"] = {"words": words}
    assert "der SPASS war {groß} HEUTE" in stage.question(row).user


def test_a_valid_answer_becomes_the_record_and_its_text(configure, guard, plain_norms, row):
    with serving(answering(f"```json\n{json.dumps(RECORD)}\n```")) as (url, seen):
        (outcome,) = described(configure, guard, plain_norms, [row], url)
    assert outcome.value == {**RECORD, "text": render_semantics(SemanticsRecord(**RECORD))}
    assert len(seen) == 1


def test_a_bad_answer_is_shown_to_the_model_once(configure, guard, plain_norms, row, prompt):
    bad = json.dumps({**RECORD, "intensity": 3})
    with serving(answering(bad, json.dumps(RECORD))) as (url, seen):
        (outcome,) = described(configure, guard, plain_norms, [row], url, prompt=str(prompt))
    assert outcome.value["emotion"] == "joy"
    answered, objection = seen[1]["messages"][-2:]
    assert answered == {"role": "assistant", "content": bad}
    assert objection["role"] == "user"
    assert objection["content"].startswith("No: intensity: Input should be less than or equal to 1")


def test_a_second_bad_answer_is_its_rows_error_and_no_other_row_is_asked_again(configure, guard, plain_norms, row):
    rows = [{**row, "utterance_id": f"u{number}"} for number in range(5)]
    rows[3]["transcribe"] = {**row["transcribe"], "text": "nonsense"}

    def script(body):
        return 200, "I cannot." if "nonsense" in body["messages"][1]["content"] else json.dumps(RECORD)

    with serving(script) as (url, seen):
        outcomes = described(configure, guard, plain_norms, rows, url)
    assert [outcome.error is None for outcome in outcomes] == [True, True, True, False, True]
    assert outcomes[3].error["type"] == "bad_record"
    assert "I cannot." in outcomes[3].error["message"]
    assert len(seen) == 5 + 1


def test_an_engine_that_is_away_is_no_rows_error(configure, guard, plain_norms, row):
    with serving(lambda body: (503, "starting")) as (url, _), pytest.raises(ServiceError, match="starting"):
        described(configure, guard, plain_norms, [row], url)


def test_a_changed_prompt_changes_semantics_and_their_vectors_alone(configure, prompt):
    def prints(**changes):
        return fingerprints(configure(over("text_llm", None, **changes)), "norms")

    before = prints(prompt=str(prompt))
    prompt.write_text(PROMPT.replace("brief", "very brief"))
    after = prints(prompt=str(prompt))
    assert {name for name in before if before[name] != after[name]} == {"semantics", "embed_semantics"}
    prompt.write_text(PROMPT.replace("7", "8"))
    assert prints(prompt=str(prompt))["semantics"] not in (before["semantics"], after["semantics"])
    copy = prompt.with_name("copy.yaml")
    copy.write_text(PROMPT)
    assert prints(prompt=str(copy)) == before


def test_the_fingerprint_knows_the_weights_and_not_the_engine(configure, tiny):
    def semantics(engine=None, **changes):
        tree = over("text_llm", None, **changes)
        tree["semantics"]["engine"] |= engine or {}
        return fingerprints(configure(tree), "norms")["semantics"]

    local = {"kind": "vllm"}
    weights = semantics(local, model=tiny("qwen2"), revision=None)
    assert weights == semantics({**local, "vllm": {"dtype": "bfloat16"}}, model=tiny("qwen2"), revision=None)
    assert weights != semantics(local, model=tiny("qwen2", layers=1), revision=None)
    assert semantics(local) == semantics() != semantics(revision="r2")
    with pytest.raises(ConfigError, match="revision"):
        semantics(revision=None)


def test_a_writer_that_hears_waits_for_no_norms_and_reads_no_words(configure):
    audio = fingerprints(configure(over("audio_llm", None)), None)
    assert list(audio) == ["decode", "prosody", "transcribe", "semantics"]
    other = configure({**over("audio_llm", None), "transcribe": {"kind": "pocketsphinx"}})
    changed = fingerprints(other, "norms")
    before = fingerprints(configure(over("audio_llm", None)), "norms")
    assert {name for name in before if before[name] == changed[name]} >= {"semantics", "embed_semantics"}
    assert before["transcribe"] != changed["transcribe"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n", "system"),
        (PROMPT.replace("7", "seven"), "whole number"),
        (PROMPT.replace("{delivery}", "{mood}"), "mood"),
        (PROMPT.replace("{problem}", "{problem"), "template"),
        ("a: [", "YAML"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_before_any_work(text, message, prompt):
    prompt.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompt(str(prompt), {"transcript", "delivery"})


def test_a_prompt_that_is_not_there_is_named(configure):
    with pytest.raises(ConfigError, match="Shipped: audio_llm, text_llm"):
        build_semantics(configure(over("text_llm", None, prompt="poem")).semantics, None)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        build_semantics(configure(over("text_llm", None, prompt="./nowhere.yaml")).semantics, None)


def test_what_the_decoder_may_write_is_a_record():
    schema = decoding_schema(40, 240)
    Draft202012Validator.check_schema(schema)
    narrow = Draft202012Validator(schema)
    assert narrow.is_valid(RECORD)
    widest = {**RECORD, "emotion": "x" * 40, "summary": "x" * 240}
    assert narrow.is_valid(widest)
    SemanticsRecord.model_validate(widest)
    for field, value in (("emotion", "x" * 41), ("emotion", ""), ("summary", 'a "b"'), ("summary", "x" * 241)):
        assert not narrow.is_valid({**RECORD, field: value})
    assert not narrow.is_valid({**RECORD, "intensity": 0.3})
    assert not narrow.is_valid({**RECORD, "more": "x"})
    assert not Draft202012Validator(decoding_schema(10_000, 10_000)).is_valid(
        {**RECORD, "emotion": "x" * (PHRASE_CHARACTERS + 1)}
    )


def test_bounds_that_the_answer_cannot_fit_into_are_found_when_the_configuration_is_read(configure, caplog):
    def build(**changes):
        build_semantics(configure(over("text_llm", None, **changes)).semantics, None)

    with pytest.raises(ConfigError) as caught:
        build(max_tokens=150)
    assert caught.value.kind == "max_tokens_too_small"
    assert caught.value.where == "annotate.semantics.text_llm.max_tokens"
    build()
    assert not caplog.records
    build(max_tokens=400)
    assert "may be cut off" in caplog.text


def test_a_chat_template_is_part_of_the_fingerprint_wherever_its_file_is(configure, tmp_path):
    def prints(**chat):
        return fingerprints(configure(over("text_llm", None, chat=chat)), "norms")["semantics"]

    for name, text in (("a", "{{ messages }}"), ("b", "{{ messages }}"), ("c", "{{ messages[0] }}")):
        (tmp_path / f"{name}.jinja").write_text(text)
    first = prints(template=str(tmp_path / "a.jinja"))
    assert first == prints(template=str(tmp_path / "b.jinja")) == prints(template="{{ messages }}")
    assert first != prints(template=str(tmp_path / "c.jinja"))
    others = {prints(), prints(template_kwargs={"enable_thinking": False}), prints(system_turn="fold"), first}
    assert len(others) == 4
    with pytest.raises(ConfigError) as caught:
        prints(template=str(tmp_path / "none.jinja"))
    assert caught.value.kind == "bad_chat_template"


def test_an_adapter_is_part_of_the_fingerprint_and_an_endpoint_takes_none(configure, tiny, tmp_path):
    from adapter_kit import write_adapter

    def prints(engine, **changes):
        tree = over("text_llm", None, **changes)
        tree["semantics"]["engine"]["kind"] = engine
        return fingerprints(configure(tree), "norms")["semantics"]

    adapters = [str(write_adapter(tiny("qwen2"), tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    assert len({prints("vllm", adapter=adapter) for adapter in (None, *adapters)}) == 3
    with pytest.raises(ConfigError) as caught:
        prints("endpoint", adapter=adapters[0])
    assert caught.value.kind == "bad_adapter"
