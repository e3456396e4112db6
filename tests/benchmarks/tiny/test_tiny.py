"""The tiny checkpoints: the same each time, and taken by the code that loads real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.tiny import MAKERS, Size, make
from error_kit import of_kind
from scoring_kit import speech

from emoray.config import merge, read_preset, validate
from emoray.errors import ConfigError
from emoray.models.config import SslConfig
from emoray.models.encoders import SslEncoder
from emoray.stages.model_files.weights import revision
from emoray.stages.text_encoder import masked_mean, text_encoder


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_arguments_give_the_same_files(name, tiny, tmp_path):
    again = make(name, tmp_path / "again")
    here, there = (sorted(path.name for path in Path(folder).iterdir()) for folder in (tiny(name), again))
    assert here == there
    assert all((Path(again) / file).read_bytes() == (Path(tiny(name)) / file).read_bytes() for file in here)
    assert revision(make(name, tmp_path / "other", seed=1)) != revision(again)


def test_what_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="whisper", check=of_kind("unknown_checkpoint")):
        make("gpt", tmp_path / "gpt")
    with pytest.raises(ConfigError, match="32", check=of_kind("bad_width")):
        make("roberta", tmp_path / "roberta", size=Size(width=50))
    assert not list(tmp_path.iterdir())


def test_the_text_encoder_reads_roberta(tiny):
    encoder = text_encoder(tiny("roberta"), "cpu", 64)
    text = "the garden was superb"
    (first, spans), (second, _) = encoder.states([text, "a vile dinner"], 2)
    assert first.shape == (len(spans), 64)
    assert "".join(text[start:end] for start, end in spans[1:-1]) == text.replace(" ", "")
    assert not np.allclose(masked_mean(first), masked_mean(second))


def test_the_acoustic_encoder_reads_wavlm(tiny):
    preset = read_preset("laptop")["model"]["encoder"]["ssl"]
    encoder = SslEncoder(validate(SslConfig, merge(preset, {"checkpoint": tiny("wavlm")}))).eval()
    assert encoder.width == 64
    samples = torch.from_numpy(np.stack([speech(1.0, 110.0), speech(1.0, 190.0)]))
    with torch.inference_mode():
        states, mask = encoder(samples, torch.tensor([16_000, 16_000]))
    assert mask.all()
    assert not torch.allclose(states[0], states[1])


def test_the_language_models_are_whole(tiny):
    from transformers import AutoProcessor, AutoTokenizer, Qwen2AudioForConditionalGeneration, Qwen2ForCausalLM

    for kind, name in ((Qwen2ForCausalLM, "qwen2"), (Qwen2AudioForConditionalGeneration, "qwen2_audio")):
        _, info = kind.from_pretrained(tiny(name), output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen2"))
    message = [{"role": "user", "content": "a superb garden"}]
    asked = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert asked == "<|im_start|>user\na superb garden<|im_end|>\n<|im_start|>assistant\n"
    processor = AutoProcessor.from_pretrained(tiny("qwen2_audio"))
    message = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "how"}]}]
    asked = processor.apply_chat_template(message, tokenize=False)
    heard = processor(text=asked, audio=[speech(1.0)], sampling_rate=16_000, return_tensors="pt")
    assert int((heard["input_ids"] == processor.audio_token_id).sum()) == 25  # 40 ms each


def test_the_command_writes_what_it_is_asked_for(tmp_path):
    command = [sys.executable, "-m", "benchmarks.tiny", str(tmp_path / "made"), "roberta"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [str(tmp_path / "made" / "roberta")]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["roberta"]
    assert subprocess.run([*command[:-1], "gpt"], capture_output=True, timeout=120).returncode == 2
