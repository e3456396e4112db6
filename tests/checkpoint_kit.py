"""Tiny checkpoints as others publish theirs: in half precision, with Python or a template of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

#: A template that has no place for a system turn, as Kimi-Audio's has none.
WITHOUT_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|audio_bos|><|AUDIO|><|audio_eos|>\n{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: One that refuses a system turn, as Gemma's does.
REFUSING_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + WITHOUT_SYSTEM
)
#: One that opens a thought unless it is told not to.
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is not defined %}<think>{% endif %}"
    "{% endif %}"
)
_TOKENIZER = """
from transformers import Qwen2Tokenizer

open({trace!r}, "w").close()


class OwnTokenizer(Qwen2Tokenizer):
    pass
"""


#: File that the Python code of a checkpoint leaves in its folder when it runs.
_TRACE = "ran"


def own_code_ran(folder: str) -> bool:
    """Whether anybody ran the Python code in a checkpoint of `with_own_code`."""
    return Path(folder, _TRACE).exists()


def in_half_precision(model: str, folder: Path) -> str:
    """A copy with float16 weights."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: one.to(torch.float16) for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    _change(folder / "config.json", dtype="float16")
    return str(folder)


def with_own_code(model: str, folder: Path) -> str:
    """A copy whose tokenizer is Python in its folder; see `own_code_ran`."""
    shutil.copytree(model, folder)
    (folder / "tokenization_own.py").write_text(_TOKENIZER.format(trace=str(folder / _TRACE)))
    own = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    _change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=own)
    return str(folder)


def with_template(model: str, folder: Path, template: str) -> str:
    """A copy with another chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
