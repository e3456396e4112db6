"""The Whisper transcriber on a tiny random checkpoint: structure, times, independence of the batch."""

from __future__ import annotations

import string

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from emoray.errors import ConfigError
from emoray.stages.transcribe import transcriber
from emoray.stages.weights import revision

SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
]


@pytest.fixture(scope="module", params=[True, False], ids=["aligned", "unaligned"])
def checkpoint(request, tmp_path_factory):
    """A checkpoint with a byte-level vocabulary; with or without alignment heads."""
    folder = tmp_path_factory.mktemp("whisper")
    vocab = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[], pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    times = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
    tokenizer.add_tokens(times)
    number = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_target_positions=40,
            eos_token_id=number["<|endoftext|>"],
            bos_token_id=number["<|endoftext|>"],
            pad_token_id=number["<|endoftext|>"],
            decoder_start_token_id=number["<|startoftranscript|>"],
        )
    )
    settings = network.generation_config
    settings._from_model_config = False  # it is a file of its own, as published checkpoints have it
    settings.is_multilingual = True
    settings.lang_to_id = {"<|en|>": number["<|en|>"], "<|de|>": number["<|de|>"]}
    settings.task_to_id = {"transcribe": number["<|transcribe|>"], "translate": number["<|translate|>"]}
    settings.no_timestamps_token_id = number["<|notimestamps|>"]
    settings.max_initial_timestamp_index = 50
    settings.max_length = 32
    # ASCII letters and spaces alone, and no end before the longest length: the random network would else say nothing.
    mute = [index for character, index in vocab.items() if character not in string.ascii_letters + "Ġ"]
    untimed = [] if request.param else tokenizer.convert_tokens_to_ids(times)
    settings.suppress_tokens = [*mute, *number.values(), *untimed]
    settings.begin_suppress_tokens = []
    if request.param:
        settings.alignment_heads = [[0, 0], [0, 1]]
    network.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return str(folder), request.param


@pytest.fixture
def stage(checkpoint, configure):
    over = {"transcribe": {"kind": "whisper", "whisper": {"model": checkpoint[0], "language": "en", "device": "cpu"}}}
    return transcriber(configure(over).transcribe)


def test_batch_and_single_agree_and_words_make_the_text(stage, checkpoint, spoken):
    together = stage.run(spoken[:3])
    alone = [stage.run([row])[0] for row in spoken[:3]]
    assert together == alone
    for row, value in zip(spoken, together, strict=False):
        assert "".join(word["word"] for word in value["words"]) == value["text"].replace(" ", "")
        assert value["language"] == "en"
        assert value["times"] == ("recogniser" if checkpoint[1] else "none")
        for word in value["words"]:
            assert (word["start_s"] is not None) == checkpoint[1]
            if checkpoint[1]:
                assert 0 <= word["start_s"] <= word["end_s"] <= len(row["waveform"]) / 16_000


def test_a_clip_longer_than_the_window_is_taken_too(stage, spoken):
    long = {**spoken[0], "waveform": np.tile(spoken[0]["waveform"], 20)[: 35 * 16_000]}
    values = stage.run([spoken[1], long])
    assert values[0] == stage.run([spoken[1]])[0]
    assert values[1]["text"]


def test_the_fingerprint_follows_the_weights_not_the_folder(stage, checkpoint):
    assert stage.options() == {"kind": "whisper", "revision": revision(checkpoint[0]), "language": "en"}


def test_a_model_that_is_not_there_is_named(configure):
    stage = transcriber(
        configure({"transcribe": {"kind": "whisper", "whisper": {"model": "./nothing/here"}}}).transcribe
    )
    with pytest.raises(ConfigError, match="nothing/here"):
        stage.options()
