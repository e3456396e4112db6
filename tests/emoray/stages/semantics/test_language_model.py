"""Semantics by language models: what is asked, what is made of the answers, and what the fingerprint depends on."""

from __future__ import annotations

import json
import re
from importlib import resources

import numpy as np
import pyarrow as pa
import pytest
import yaml
from engine_kit import RECORD, Act, endpoint_config, serving
from jsonschema import Draft202012Validator

from emoray.engines import Question
from emoray.errors import ConfigError, ServiceError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import stage_schema
from emoray.stages.guard import run_isolating_rows
from emoray.stages.pipeline import TEXT_STAGES, audio_stages, fingerprints, text_stages, with_decode
from emoray.stages.semantics.asked import FIELDS
from emoray.stages.semantics.prompt import read_prompt
from emoray.stages.semantics.record import (
    PHRASE_CHARACTERS,
    WRITTEN_TYPE,
    Semantics,
    SemanticsRecord,
    decoding_schema,
    render_semantics,
)
from emoray.stages.semantics.stage import build_semantics

PROMPT = "version: 7\nsystem: Be brief.\nuser: 'Said: {transcript} Measured: {delivery}'\nrepair: 'No: {problem}'\n"


def shipped_prompts():
    return [item.name.removesuffix(".yaml") for item in (resources.files("emoray") / "prompts").iterdir()]


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
    stage = build_semantics(configure(over("text_llm", None, prompts=[str(prompt)])).semantics, plain_norms)
    question = stage.question(row)
    assert question.system == "Be brief."
    # Word for word: if what the model reads changes, the stage's version must be raised.
    assert stage.version == 4
    assert question.user == (
        "Said: What a DAY Measured: Voice very much quieter, pitch very much higher, melody very much wider, pace very"
        " much faster, pausing as usual, intonation very much more rising, loudness very much more swelling, voicing"
        " slightly denser, pitch line as usual. Compared with the usual: 17 dB quieter, 10 semitones higher."
    )
    plain = stage.question({name: value for name, value in row.items() if name != "emphasis"})
    assert plain.user.startswith("Said: What a day Measured: ")


def test_letters_that_grow_in_capitals_move_no_other_word(configure, plain_norms, row, prompt):
    stage = build_semantics(configure(over("text_llm", None, prompts=[str(prompt)])).semantics, plain_norms)
    text = "der Spaß war {groß} heute"
    words = [{"word": word, "emphasised": word in ("Spaß", "heute"), "prominence": 0.0} for word in text.split()]
    row["transcribe"]["text"] = text
    row["emphasis"] = {"words": words}
    assert "der SPASS war {groß} HEUTE" in stage.question(row).user


def test_a_valid_answer_becomes_the_record_and_its_text(configure, guard, plain_norms, row):
    with serving(answering(f"```json\n{json.dumps(RECORD)}\n```")) as (url, seen):
        (outcome,) = described(configure, guard, plain_norms, [row], url)
    assert outcome.value == {**RECORD, "text": render_semantics(SemanticsRecord(**RECORD)), "texts": None}
    assert len(seen) == 1


def test_a_bad_answer_is_shown_to_the_model_once(configure, guard, plain_norms, row, prompt):
    bad = json.dumps({**RECORD, "intensity": 3})
    with serving(answering(bad, json.dumps(RECORD))) as (url, seen):
        (outcome,) = described(configure, guard, plain_norms, [row], url, prompts=[str(prompt)])
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

    before = prints(prompts=[str(prompt)])
    prompt.write_text(PROMPT.replace("brief", "very brief"))
    after = prints(prompts=[str(prompt)])
    assert {name for name in before if before[name] != after[name]} == {"semantics", "embed_semantics"}
    prompt.write_text(PROMPT.replace("7", "8"))
    assert prints(prompts=[str(prompt)])["semantics"] not in (before["semantics"], after["semantics"])
    copy = prompt.with_name("copy.yaml")
    copy.write_text(PROMPT)
    assert prints(prompts=[str(copy)]) == before


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


def test_a_writer_that_hears_depends_on_all_that_it_is_given(configure):
    def prints(**over):
        return fingerprints(configure({**over_audio, **over}), "norms")

    over_audio = over("audio_llm", None)
    before = prints()
    assert list(fingerprints(configure(over_audio), None)) == ["decode", "prosody", "transcribe"]
    for change in (
        {"transcribe": {"kind": "pocketsphinx"}},
        {"prosody": {"f0_floor_hz": 70}},
        {"emphasis": {"prosody": {"threshold_sd": 2.0}}},
        {"audio": {"max_duration_s": 30}},
    ):
        changed = prints(**change)
        assert before["semantics"] != changed["semantics"], change
        assert before["embed_semantics"] != changed["embed_semantics"], change
    assert before["semantics"] != fingerprints(configure(over_audio), "other norms")["semantics"]
    corpus = {**over_audio["semantics"], "cues": {"against": "corpus"}}
    assert before["semantics"] != prints(semantics=corpus)["semantics"]


def test_a_model_that_hears_is_given_words_stress_and_measures(configure, plain_norms, row, prompt):
    settings = configure(over("audio_llm", None, prompts=[str(prompt)]))
    stage = build_semantics(settings.semantics, plain_norms)
    row["waveform"] = np.zeros(16_000, np.float32)
    question = stage.question(row)
    assert stage.version == 3
    assert question.audio is row["waveform"]
    text_stage = build_semantics(configure(over("text_llm", None, prompts=[str(prompt)])).semantics, plain_norms)
    assert question.user == text_stage.question(row).user
    assert question.user.startswith("Said: What a DAY Measured: Voice very much quieter, pitch")
    for nothing in (None, {**row["transcribe"], "text": " "}):
        bare = stage.question({**row, "transcribe": nothing, "emphasis": None})
        assert bare.user.startswith(
            "Said: There is no transcript of this clip. Measured: Voice very much quieter, pitch"
        )


def test_the_second_pass_decodes_again_for_a_writer_that_hears_and_for_no_other(configure):
    def names(kind):
        settings = configure(over(kind, None))
        return [stage.name for stage in with_decode(text_stages(settings, None), audio_stages(settings))]

    assert names("text_llm") == list(TEXT_STAGES)
    assert names("audio_llm") == ["decode", *TEXT_STAGES]


def test_evidence_is_decoded_before_the_verdict():
    order = list(decoding_schema(40, 240)["properties"])
    assert order == [
        "vocal_delivery",
        "intention",
        "attitude",
        "valence",
        "arousal",
        "dominance",
        "emotion",
        "intensity",
        "summary",
    ]
    assert decoding_schema(40, 240)["required"] == order


@pytest.mark.parametrize("name", sorted(shipped_prompts()))
def test_a_shipped_prompt_asks_for_what_is_decoded_in_its_order(name):
    shown = read_prompt(name, set(FIELDS))
    asked = re.findall(r"^- (\w+):", shown.system, re.MULTILINE)
    if shown.form == "free_text":
        assert not asked
    elif shown.version > 1 or name.endswith(("_listener", "_examples")):
        assert asked == list(SemanticsRecord.model_fields)
    else:  # kept as it was
        assert set(asked) == set(SemanticsRecord.model_fields) - {"valence", "arousal", "dominance"}


def test_several_prompts_are_all_asked_and_all_their_texts_kept(configure, guard, plain_norms, row, prompt):
    other = prompt.with_name("other.yaml")
    other.write_text(PROMPT.replace("Be brief.", "Be plain."))
    rows = [{**row, "utterance_id": name, "transcribe": {**row["transcribe"], "text": name}} for name in ("a1", "b2")]

    def script(body):
        plain = body["messages"][0]["content"] == "Be plain."
        second = "b2" in body["messages"][1]["content"]
        if plain and second:
            return 200, "I cannot."
        return 200, json.dumps({**RECORD, "emotion": "calm" if plain else "joy"})

    with serving(script) as (url, seen):
        good, bad = described(configure, guard, plain_norms, rows, url, prompts=[str(prompt), str(other)])
    first, second = (render_semantics(SemanticsRecord(**{**RECORD, "emotion": emotion})) for emotion in ("joy", "calm"))
    assert (good.value["emotion"], good.value["text"], good.value["texts"]) == ("joy", first, [first, second])
    assert bad.error["type"] == "bad_record"
    assert len(seen) == 2 + 2 + 1  # each prompt of each row, and one repair


def test_the_order_and_number_of_prompts_are_in_the_fingerprint(configure, prompt):
    other = prompt.with_name("other.yaml")
    other.write_text(PROMPT.replace("brief", "plain"))
    one, two = str(prompt), str(other)
    found = {
        fingerprints(configure(over("text_llm", None, prompts=names)), "norms")["semantics"]
        for names in ([one], [two], [one, two], [two, one])
    }
    assert len(found) == 4


def free_text(prompt):
    prompt.write_text(PROMPT.replace("system:", "form: free_text\nsystem:"))
    return [str(prompt)]


def test_free_text_is_not_held_to_a_schema_and_its_length_is(configure, guard, plain_norms, row, prompt):
    said = "Loud and fast.\n\nShe is glad. " + "x" * 20
    bounds = {"prompts": free_text(prompt), "paragraph_characters": 50}
    with serving(answering(f"<think>Hm.</think>{said}")) as (url, seen):
        (outcome,) = described(configure, guard, plain_norms, [row], url, **bounds)
    assert "response_format" not in seen[0]
    assert outcome.value["text"] == "Loud and fast. She is glad. " + "x" * 20
    assert {name for name, value in outcome.value.items() if value is not None} == {"text"}
    with serving(answering(said + "x" * 3, "Short.")) as (url, seen):
        (outcome,) = described(configure, guard, plain_norms, [row], url, **bounds)
    assert seen[1]["messages"][-1]["content"] == "No: it has 51 characters, more than 50"
    assert outcome.value["text"] == "Short."
    cut = Act(content=said, finish="length")
    with serving(lambda body: cut) as (url, _):
        (outcome,) = described(configure, guard, plain_norms, [row], url, **bounds)
    assert outcome.error["type"] == "answer_cut_off"


def test_a_paragraph_must_fit_into_max_tokens(configure, prompt):
    with pytest.raises(ConfigError) as caught:
        build_semantics(
            configure(
                over("text_llm", None, prompts=free_text(prompt), paragraph_characters=500, max_tokens=124)
            ).semantics,
            None,
        )
    assert caught.value.kind == "max_tokens_too_small"


def with_examples(prompt, *examples):
    prompt.write_text(PROMPT + yaml.safe_dump({"examples": list(examples)}))
    return [str(prompt)]


def test_examples_come_before_the_row_in_the_form_that_is_asked_for(configure, guard, plain_norms, row, prompt):
    shown = {"transcript": "Oh NO.", "delivery": "Loud.", "answer": dict(reversed(RECORD.items()))}
    with serving(answering("", json.dumps(RECORD))) as (url, seen):  # the example's answer is the first turn
        (outcome,) = described(configure, guard, plain_norms, [row], url, prompts=with_examples(prompt, shown))
    assert outcome.error is None
    system, question, answer, asked = seen[0]["messages"]
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    assert question == {"role": "user", "content": "Said: Oh NO. Measured: Loud."}
    assert answer["role"] == "assistant"
    assert list(json.loads(answer["content"]).items()) == list(RECORD.items())
    assert asked["content"].startswith("Said: What a DAY Measured: ")


def test_instructions_without_a_system_turn_come_before_the_examples():
    folded = Question("Be brief.", "row", examples=(("user", "one"), ("assistant", "two"))).folded()
    assert [turn["content"] for turn in folded.messages()] == ["Be brief.\n\none", "two", "row"]


@pytest.mark.parametrize(
    ("kind", "example", "message"),
    [
        ("text_llm", {"transcript": "a", "answer": RECORD}, "keys"),
        ("text_llm", {"transcript": "a", "delivery": "b", "answer": {"emotion": "joy"}}, "Field required"),
        ("audio_llm", {"transcript": "a", "delivery": "b", "answer": RECORD}, "hears"),
    ],
)
def test_examples_that_cannot_be_shown_are_refused_before_any_work(configure, prompt, kind, example, message):
    settings = configure(over(kind, None, prompts=with_examples(prompt, example)))
    with pytest.raises(ConfigError, match=message) as caught:
        build_semantics(settings.semantics, None)
    assert caught.value.kind == "bad_example"


def test_the_key_for_one_prompt_has_moved(configure):
    with pytest.raises(ConfigError, match="prompts") as caught:
        configure(over("text_llm", None, prompt="text_llm"))
    assert caught.value.kind == "moved_key"


def test_rows_of_either_age_are_read(configure, tmp_path):
    """Tables of semantics from before there were words for valence, arousal and dominance, and of today."""
    lake = Lake(LakeConfig(root=str(tmp_path), storage_options={}))
    value = {**RECORD, "text": "t", "texts": ["t", "u"]}
    for name, kind in (("old", Semantics.value_type), ("new", WRITTEN_TYPE)):
        outcome = {"utterance_id": "u1", "value": value, "error": None, "elapsed_s": 0.1}
        lake.append_stage("semantics", name, pa.Table.from_pylist([outcome], stage_schema(kind)))
    old, new = (
        lake.stage_outcomes("semantics", name, columns=["value"]).collect()["value"][0] for name in ("old", "new")
    )
    assert new == value
    assert old == {name: value[name] for name in old}
    assert set(new) - set(old) == {"valence", "arousal", "dominance", "texts"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n", "system"),
        (PROMPT.replace("7", "seven"), "whole number"),
        (PROMPT.replace("{delivery}", "{mood}"), "mood"),
        (PROMPT.replace("{problem}", "{problem"), "template"),
        ("a: [", "YAML"),
        (PROMPT + "form: verse\n", "verse"),
        (PROMPT + "mood: good\n", "form and examples"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_before_any_work(text, message, prompt):
    prompt.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompt(str(prompt), {"transcript", "delivery"})


def test_a_prompt_that_is_not_there_is_named(configure):
    with pytest.raises(ConfigError, match=r"Shipped: audio_llm, audio_llm_listener.* text_llm_v2"):
        build_semantics(configure(over("text_llm", None, prompts=["poem"])).semantics, None)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        build_semantics(configure(over("text_llm", None, prompts=["./nowhere.yaml"])).semantics, None)


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
