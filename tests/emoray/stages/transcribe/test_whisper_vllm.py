"""Recognisers in vLLM on tiny checkpoints: Whisper hears what transformers hears; others are asked as vLLM asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from benchmarks.tiny.vocabulary import learned
from safetensors.torch import load_file, save_file

from emoray.audio.pieces import cut_into_pieces
from emoray.errors import ConfigError, StageError
from emoray.stages.transcribe.stage import build_transcribe
from emoray.stages.transcribe.whisper_vllm import WINDOW_S


@pytest.fixture(scope="session")
def settings(configure, tiny, vllm_engine):
    """Both Whispers over one checkpoint, which writes no timestamps."""

    def transcribe(kind, **changes):
        model = tiny("whisper", timed=False)
        whisper = {"model": model, "language": "en", "device": "cpu"}
        in_vllm = {"model": model, "language": "en", "times": "none", "vllm": {"load_timeout_s": 600}, **changes}
        unchecked = {"max_repeats": None, "max_compression": None}  # random weights repeat themselves
        sections = {"whisper": whisper, "whisper_vllm": in_vllm, "checks": unchecked}
        return configure({"transcribe": {"kind": kind, **sections}}).transcribe

    return transcribe


def test_it_hears_what_transformers_hears_whatever_the_order(settings, spoken):
    rows = spoken[:5]
    ours = build_transcribe(settings("whisper_vllm")).run(rows)
    theirs = build_transcribe(settings("whisper")).run(rows)
    assert [value["text"] for value in ours] == [value["text"] for value in theirs]
    assert len({value["text"] for value in ours}) > 1
    assert build_transcribe(settings("whisper_vllm")).run(rows[::-1]) == ours[::-1]
    assert all(value["times"] == "none" and value["words"][0]["start_s"] is None for value in ours)


def test_the_language_is_detected_or_given(settings, spoken):
    heard = build_transcribe(settings("whisper_vllm", language=None)).run(spoken[:3])
    theirs = build_transcribe(
        settings("whisper").model_copy(
            update={"whisper": settings("whisper").whisper.model_copy(update={"language": None})}
        )
    ).run(spoken[:3])
    assert [value["language"] for value in heard] == [value["language"] for value in theirs]
    with pytest.raises(ConfigError, match="de, en"):
        build_transcribe(settings("whisper_vllm", language="xx")).run(spoken[:1])


def test_words_that_do_not_fit_the_sound_get_no_times(settings, spoken):
    (loose,) = build_transcribe(settings("whisper_vllm", times="auto")).run(spoken[:1])
    assert loose["times"] == "none"
    (strict,) = build_transcribe(settings("whisper_vllm", times="aligned")).run(spoken[:1])
    assert isinstance(strict, StageError)
    assert strict.kind == "alignment_mismatch"


def test_a_clip_longer_than_the_window_is_heard_in_pieces(settings, spoken):
    long = {**spoken[0], "waveform": np.tile(spoken[0]["waveform"], 30)[: 35 * 16_000]}
    stage = build_transcribe(settings("whisper_vllm"))
    short, both = stage.run([spoken[1], long])
    assert short == stage.run([spoken[1]])[0]
    first = next(iter(cut_into_pieces(long["waveform"], WINDOW_S)))
    assert len(both["text"]) > len(stage.run([{**long, "waveform": first}])[0]["text"])


@pytest.fixture(scope="session")
def glm_asr(tmp_path_factory):
    """Folder of a tiny GLM-ASR, a Llama that is given what an encoder hears, with the names that vLLM knows."""
    folder = tmp_path_factory.mktemp("glm-asr")
    vocabulary, merges = learned()
    tokenizer = transformers.Qwen2Tokenizer(vocab=dict(vocabulary), merges=list(merges), eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|pad|>"]})
    end, audio = (tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<|pad|>"))
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "eos_token_id": [end], "initializer_range": 0.3}
    config = transformers.GlmAsrConfig(
        audio_config={**small, "num_mel_bins": 128}, text_config={**small, **text}, audio_token_id=audio
    )
    torch.manual_seed(0)
    transformers.GlmAsrForConditionalGeneration(config).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    published = {name.replace("language_model.model.model.", "language_model.model."): w for name, w in weights.items()}
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    features = transformers.WhisperFeatureExtractor(feature_size=128)
    transformers.GlmAsrProcessor(features, tokenizer, chat_template=template).save_pretrained(folder)
    return str(folder)


def test_another_recogniser_is_asked_as_vllm_s_server_asks_it(settings, glm_asr, spoken):
    stage = build_transcribe(settings("whisper_vllm", model=glm_asr, language=None, vllm={"max_context_tokens": 2048}))
    stage.checks = stage.checks.model_copy(update={"max_repeats": None, "max_compression": None})
    long = {**spoken[0], "waveform": np.tile(spoken[0]["waveform"], 30)[: 35 * 16_000]}
    rows = [*spoken[:3], long]
    heard = stage.run(rows)
    assert len({value["text"] for value in heard}) == 4
    assert stage.run(rows[::-1]) == heard[::-1]
    assert all(value["language"] == row["language"] for value, row in zip(heard, rows, strict=True))


def test_a_language_that_vllm_does_not_know_is_named(settings, glm_asr, spoken):
    stage = build_transcribe(settings("whisper_vllm", model=glm_asr, language="xx", vllm={"max_context_tokens": 2048}))
    with pytest.raises(ConfigError, match="xx"):
        stage.run(spoken[:1])


def test_a_model_that_hears_nothing_is_no_recogniser(settings, tiny, spoken):
    stage = build_transcribe(settings("whisper_vllm", model=tiny("qwen2")))
    with pytest.raises(ConfigError, match="no recogniser"):
        stage.run(spoken[:1])
