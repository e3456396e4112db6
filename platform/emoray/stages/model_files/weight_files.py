"""Which files of a model's folder are read when it is loaded: a repository often holds its weights several times."""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_SETTINGS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "tekken.json",
        "params.json",
        "adapter_config.json",
        "vocab.txt",
        "vocab.json",
    }
)
_SETTING_ENDS = (".tiktoken", ".py")
#: Small files that some tokenizer, processor or template reads.
_SMALL = (".json", ".txt", ".jinja", ".model", ".tiktoken", ".spm", ".bpe", ".yaml")
#: Name, variant (`model.fp16.safetensors`) and number of a weights file.
_WEIGHTS = re.compile(r"(?P<stem>[A-Za-z_]\w*?)(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.(?P<format>safetensors|bin)")
#: `consolidated` is the publisher's own layout (Mistral's), for those who find no other.
_STEMS = ("model", "adapter_model", "pytorch_model", "consolidated")


def is_setting(name: str) -> bool:
    """Whether a file, other than weights, decides what the model answers."""
    return name in _SETTINGS or name.endswith(_SETTING_ENDS)


def used_weights(names: Iterable[str]) -> list[str]:
    """Those of a folder's files that its weights are loaded from: one format, one variant, one layout."""
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in sorted(names):
        match = _WEIGHTS.fullmatch(name)
        if match and match["stem"] in _STEMS:
            found[(match["format"], match["stem"], match["variant"] or "")].append(name)
    for file_format in ("safetensors", "bin"):
        for stem in _STEMS:
            variants = sorted(variant for kind, own, variant in found if (kind, own) == (file_format, stem))
            if variants:
                group = found[(file_format, stem, variants[0])]
                whole = f"{stem}.{file_format}"
                return [whole] if whole in group else group
    return []


def has_weights(folder: Path) -> bool:
    """Whether a folder holds all of its weights: a download may have been interrupted, or have had no need of them."""
    indexes = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.index.json")]
    parts = [set(index.get("weight_map", {}).values()) for index in indexes]
    names = {path.name for path in folder.iterdir()}
    return bool(used_weights(names)) and (not parts or any(part <= names for part in parts))


def wanted(paths: Iterable[str], *, remote_code: bool) -> list[str]:
    """Those of a repository's files that loading the model may read.

    Args:
        paths: All of them; parts of a model may be in folders of their own.
        remote_code: Python files too.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, name = posixpath.split(path)
        folders[folder].append(name)
    chosen = []
    for folder, names in folders.items():
        ends = (*_SMALL, ".py") if remote_code else _SMALL
        own = [name for name in names if name.endswith(ends)] + used_weights(names)
        chosen += [posixpath.join(folder, name) for name in own]
    return sorted(chosen)
