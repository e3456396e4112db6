"""One maker per architecture: real layouts, own tokenizers, seeded random weights; nothing is downloaded.

A network's output must differ from input to input, otherwise mixed-up rows would go unnoticed: hence wider initial
weights than the published ones.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tiny.vocabulary import learned

from emoray.errors import ConfigError
from emoray.lake.atomic import atomic_folder

HEAD_WIDTH = 32  # the narrowest that vLLM's attention takes
WINDOW_S = 30
POSITIONS = 1500  # of Whisper's encoder, which Qwen2-Audio's is too: 20 ms each

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|audio_bos|><|AUDIO|><|audio_eos|>\n{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WHISPER_TOKENS = (
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
)
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


@dataclass(frozen=True)
class Size:
    """Size of the networks.

    Attributes:
        width: Hidden width, a multiple of 32 (one attention head each).
        layers: Layers of every stack.
        answer_tokens: Longest transcript of Whisper, which never stops earlier.
        timed: Whether Whisper names alignment heads, so that words get times.
    """

    width: int = 64
    layers: int = 2
    answer_tokens: int = 24
    timed: bool = True

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.width // HEAD_WIDTH


SMALLEST = Size()


def make(name: str, folder: str | os.PathLike[str], *, seed: int = 0, size: Size = SMALLEST) -> str:
    """Write a checkpoint (one of `MAKERS`), whole or not at all; an existing one is replaced.

    The same arguments give the same files; `seed` is that of the weights.

    Returns:
        The folder.

    Raises:
        ConfigError: There is no such checkpoint, or its width is no multiple of 32.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    if name not in MAKERS:
        remedy = f"There are: {', '.join(MAKERS)}"
        raise ConfigError(f"there is no tiny checkpoint {name!r}", remedy=remedy, kind="unknown_checkpoint")
    if size.width % HEAD_WIDTH:
        what = f"width {size.width} is no multiple of {HEAD_WIDTH}"
        raise ConfigError(what, remedy="Use a multiple: attention heads are that wide", kind="bad_width")
    disable_progress_bar()
    with atomic_folder(folder) as draft, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        MAKERS[name](Path(draft), size)
    return os.path.abspath(folder)


def _whisper(folder: Path, size: Size) -> None:
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    vocabulary, merges = learned()
    tokenizer = WhisperTokenizer(vocab=dict(vocabulary), merges=list(merges), pad_token=WHISPER_TOKENS[0])
    tokenizer.add_special_tokens({"additional_special_tokens": list(WHISPER_TOKENS)})
    times = [f"<|{index * 0.02:.2f}|>" for index in range(POSITIONS + 1)]
    tokenizer.add_tokens(times)
    number = {token: tokenizer.convert_tokens_to_ids(token) for token in WHISPER_TOKENS}
    network = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            d_model=size.width,
            encoder_layers=size.layers,
            decoder_layers=size.layers,
            encoder_attention_heads=size.heads,
            decoder_attention_heads=size.heads,
            encoder_ffn_dim=2 * size.width,
            decoder_ffn_dim=2 * size.width,
            max_source_positions=POSITIONS,
            max_target_positions=size.answer_tokens + 8,
            init_std=0.3,
            bos_token_id=number["<|endoftext|>"],
            eos_token_id=number["<|endoftext|>"],
            pad_token_id=number["<|endoftext|>"],
            decoder_start_token_id=number["<|startoftranscript|>"],
        )
    )
    settings = network.generation_config
    settings._from_model_config = False  # as in published checkpoints, it is a separate file
    settings.is_multilingual = True
    settings.lang_to_id = {name: number[name] for name in ("<|en|>", "<|de|>")}
    settings.task_to_id = {"transcribe": number["<|transcribe|>"], "translate": number["<|translate|>"]}
    settings.no_timestamps_token_id = number["<|notimestamps|>"]
    settings.max_initial_timestamp_index = 50
    settings.max_length = size.answer_tokens
    # Only words of Latin letters, and no end before the longest length: otherwise the text would not be readable.
    mute = [index for token, index in vocabulary.items() if not set(token) <= set(string.ascii_letters + "Ġ")]
    untimed = [] if size.timed else tokenizer.convert_tokens_to_ids(times)
    settings.suppress_tokens = [*mute, vocabulary["Ġ"], *number.values(), *untimed]
    settings.begin_suppress_tokens = []
    if size.timed:
        settings.alignment_heads = [[0, head] for head in range(size.heads)]
    network.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)


def _qwen2(folder: Path, size: Size) -> None:
    from transformers import Qwen2ForCausalLM

    tokenizer = _qwen_tokenizer()
    network = Qwen2ForCausalLM(_qwen_config(size, len(tokenizer)))
    _end_at(network, tokenizer)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _qwen2_audio(folder: Path, size: Size) -> None:
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    tokenizer = _qwen_tokenizer()
    ear = Qwen2AudioEncoderConfig(
        num_mel_bins=128,
        d_model=size.width,
        encoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        encoder_ffn_dim=2 * size.width,
        max_source_positions=POSITIONS,
        initializer_range=0.3,
    )
    audio = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    network = Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(audio_config=ear, text_config=_qwen_config(size, len(tokenizer)), audio_token_index=audio)
    )
    _end_at(network, tokenizer)
    network.save_pretrained(folder)
    _rename_as_published(folder)
    features = WhisperFeatureExtractor(feature_size=128, chunk_length=WINDOW_S)
    Qwen2AudioProcessor(features, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)


def _wavlm(folder: Path, size: Size) -> None:
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    config = WavLMConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=2 * size.width,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)


def _roberta(folder: Path, size: Size) -> None:
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    vocabulary, merges = learned()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    numbered = {token: index for index, token in enumerate([*special[:4], *vocabulary, special[4]])}
    tokenizer = RobertaTokenizer(vocab=numbered, merges=list(merges), model_max_length=512)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=2 * size.width,
        max_position_embeddings=514,  # two are padding's
        type_vocab_size=1,
        initializer_range=0.1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _qwen_config(size: Size, vocabulary: int) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )


def _qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    vocabulary, merges = learned()
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary), merges=list(merges), eos_token="<|im_end|>", chat_template=CHAT_TEMPLATE
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_TOKENS)})
    return tokenizer


def _end_at(network: Any, tokenizer: Any) -> None:
    settings = network.generation_config
    settings._from_model_config = False
    settings.eos_token_id = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    settings.pad_token_id = settings.eos_token_id[1]
    settings.bos_token_id = settings.eos_token_id[1]


def _rename_as_published(folder: Path) -> None:
    """Remove one `model` from `language_model.model.model.*`, which transformers 5 writes and vLLM does not know."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    renamed = {
        name.replace("language_model.model.model.", "language_model.model."): one for name, one in weights.items()
    }
    renamed = {
        name.replace("language_model.model.lm_head", "language_model.lm_head"): one for name, one in renamed.items()
    }
    save_file(renamed, path, metadata={"format": "pt"})


#: Name → maker.
MAKERS: dict[str, Callable[[Path, Size], None]] = {
    "whisper": _whisper,
    "qwen2": _qwen2,
    "qwen2_audio": _qwen2_audio,
    "wavlm": _wavlm,
    "roberta": _roberta,
}
