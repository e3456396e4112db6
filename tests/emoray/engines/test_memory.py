"""Whether a model fits, reckoned from its files: figures by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from emoray.config import merge, read_preset, validate
from emoray.engines import VllmConfig
from emoray.engines.memory import GIB, check_memory, need
from emoray.errors import ServiceError

SETTINGS = {
    "dtype": "float16",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}


@pytest.fixture
def folder(tmp_path):
    """1,000 half-precision numbers and 10 whole ones of eight bytes."""
    save_file({"w": np.zeros((10, 100), np.float16), "ids": np.zeros(10, np.int64)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    return tmp_path


def config(**changes):
    preset = read_preset("laptop")["annotate"]["semantics"]["engine"]["vllm"]
    return validate(VllmConfig, merge(preset, {"dtype": "auto", "max_context_tokens": 100, **changes}))


def test_weights_are_counted_as_they_are_loaded(folder):
    assert need(folder, config()).weights_bytes == 2_000 + 80
    assert need(folder, config(dtype="float32")).weights_bytes == 4_000 + 80
    assert need(folder, config(tensor_parallel_size=2)).weights_bytes == 1_040


def test_files_that_are_not_loaded_do_not_count_and_parts_in_folders_do(folder):
    save_file({"w": np.zeros(5_000, np.float32)}, folder / "consolidated.safetensors")
    (folder / "ear").mkdir()
    save_file({"w": np.zeros(100, np.float16)}, folder / "ear" / "model.safetensors")
    assert need(folder, config()).weights_bytes == 2_080 + 200


def test_quantised_weights_are_as_large_as_their_files(folder):
    (folder / "config.json").write_text(json.dumps({**SETTINGS, "quantization_config": {"quant_method": "awq"}}))
    assert need(folder, config(dtype="float32")).weights_bytes == 2_080


@pytest.mark.parametrize("inside", [None, "text_config", "thinker_config"])
def test_keys_and_values_of_the_longest_answer(folder, inside):
    settings = {"dtype": "float16", inside: SETTINGS} if inside else SETTINGS
    if inside == "thinker_config":
        settings = {"dtype": "float16", inside: {"text_config": SETTINGS}}
    (folder / "config.json").write_text(json.dumps(settings))
    # Keys and values, 2 layers, 1 head of 64 / 4, 2 bytes.
    per_token = 2 * 2 * 1 * 16 * 2
    assert need(folder, config()).answer_bytes == 100 * per_token
    assert need(folder, config(max_context_tokens=None)).answer_bytes == 512 * per_token
    assert need(folder, config(dtype="float32")).answer_bytes == 200 * per_token


def test_what_cannot_fit_is_said_with_the_figures(folder):
    check_memory(folder, config(), on_cpu=True)
    with pytest.raises(ServiceError) as caught:
        check_memory(folder, config(cpu_cache_gib=1_000_000), on_cpu=True)
    assert caught.value.kind == "not_enough_memory"
    assert "1000000.0 GiB" in str(caught.value)
    tokens = 2 * GIB // (2 * 2 * 1 * 16 * 2)
    with pytest.raises(ServiceError) as caught:
        check_memory(folder, config(max_context_tokens=tokens), on_cpu=True)
    assert "max_context_tokens take 2.0 GiB, and 1.0 GiB are cpu_cache_gib" in str(caught.value)
