"""What a decoder is held to: with xgrammar itself, for the bounds of every preset and the widest that are allowed."""

from __future__ import annotations

import json
import re

import pytest

from emoray.config import BASE_PRESET, merge, preset_names, read_preset
from emoray.errors import ConfigError
from emoray.stages.semantics.decoding import check_compiles, check_length, longest_answer, text_pattern
from emoray.stages.semantics.record import PHRASE_CHARACTERS, SENTENCE_CHARACTERS, decoding_schema

#: xgrammar 0.2.8 compiles no repetition beyond this.
MOST = 128


def bounds_of(preset):
    semantics = merge(read_preset(BASE_PRESET), read_preset(preset))["annotate"]["semantics"]
    return [
        [semantics[kind][f"{part}_characters"] for part in ("phrase", "sentence", "paragraph")]
        + [semantics[kind]["max_tokens"]]
        for kind in ("text_llm", "audio_llm")
    ]


@pytest.mark.parametrize("preset", preset_names())
def test_every_presets_bounds_compile_and_no_answer_within_them_can_be_cut_off(preset):
    for phrase, sentence, paragraph, max_tokens in bounds_of(preset):
        schema = decoding_schema(phrase, sentence)
        check_compiles(json.dumps(schema), preset)
        # One token for every character is the most that a byte-level tokenizer needs.
        assert max(longest_answer(schema), paragraph) <= max_tokens


def test_the_widest_bounds_compile():
    check_compiles(json.dumps(decoding_schema(PHRASE_CHARACTERS, SENTENCE_CHARACTERS)), "widest")


@pytest.mark.parametrize("longest", [1, 2, 119, 120, 121, 128, 129, 239, 240, 241, 256, 257, 511, 599, 600])
def test_a_pattern_takes_one_to_so_many_characters(longest):
    pattern = text_pattern(longest)
    assert [length for length in range(longest + 3) if re.search(pattern, "x" * length)] == list(range(1, longest + 1))
    assert not re.search(pattern, 'x"'[-longest:])


def test_no_pattern_repeats_more_often_than_can_be_compiled():
    for longest in range(1, SENTENCE_CHARACTERS + 1):
        counts = [
            int(count) for part in re.findall(r"\{([\d,]+)\}", text_pattern(longest)) for count in part.split(",")
        ]
        assert max(counts) <= MOST


def test_xgrammar_takes_what_the_pattern_takes():
    xgrammar = pytest.importorskip("xgrammar")
    characters = [chr(code) for code in range(32, 127)]
    tokens = xgrammar.TokenizerInfo([*characters, "</s>"], xgrammar.VocabType.RAW, stop_token_ids=[len(characters)])
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": text_pattern(240)}},
        "required": ["a"],
    }
    compiled = xgrammar.GrammarCompiler(tokens).compile_json_schema(json.dumps(schema), any_whitespace=False)

    def takes(length):
        return xgrammar.GrammarMatcher(compiled).accept_string(json.dumps({"a": "x" * length}))

    assert [length for length in (0, 1, 119, 120, 121, 239, 240, 241, 300) if takes(length)] == [
        1,
        119,
        120,
        121,
        239,
        240,
    ]


def test_a_pattern_that_does_not_compile_is_said_before_the_model_is_loaded():
    pytest.importorskip("xgrammar")
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^(a)\1$"}}}
    with pytest.raises(ConfigError) as caught:
        check_compiles(json.dumps(schema), "annotate.semantics.text_llm")
    assert caught.value.kind == "schema_not_compiled"
    assert caught.value.where == "annotate.semantics.text_llm"


def test_the_longest_answer_is_that_of_the_widest_record():
    phrases = ("intention", "attitude", "valence", "arousal", "dominance", "emotion")
    widest = {**dict.fromkeys(phrases, "x" * 7), "intensity": 0.25}
    widest |= {"vocal_delivery": "x" * 130, "summary": "x" * 130}
    length = len(json.dumps(widest, separators=(",", ":")))
    schema = decoding_schema(7, 130)
    assert longest_answer(schema) == length
    check_length(length, -(-length // 4), "here")
    with pytest.raises(ConfigError) as caught:
        check_length(length, -(-length // 4) - 1, "here")
    assert caught.value.kind == "max_tokens_too_small"
