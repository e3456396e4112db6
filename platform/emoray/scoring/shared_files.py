"""Files that versions share: a bundle that was registered names them by hash instead of holding a copy.

`shared.json` in the bundle's folder::

    {"text_encoder": {"hash": "…", "revision": "…", "bytes": 91000000}, "frozen": {…}}

A name is a folder that the bundle would otherwise hold: `text_encoder`, or `frozen` with the weights that training left
as they were. `emoray.registry.publish.shared` stores and fetches them.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoray.errors import ConfigError, RegistryError
from emoray.stages.model_files.weights import PACKAGED, model_folder, revision

SHARED = "shared.json"
TEXT_ENCODER, FROZEN = "text_encoder", "frozen"
#: In the folder `frozen`.
FROZEN_WEIGHTS = "frozen.safetensors"


def references(bundle: Path) -> Mapping[str, Mapping[str, Any]]:
    """What a bundle refers to: name → its hash, size and, of a text encoder, revision."""
    path = bundle / SHARED
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def locate(bundle: Path, name: str) -> Path | None:
    """A folder of a bundle, its own or a shared one; None if it has none of this name.

    Raises:
        RegistryError: It is shared, and not on this machine (`shared_files_missing`).
    """
    own = (bundle / name).absolute()
    if own.is_dir():
        return own
    reference = references(bundle).get(name)
    if reference is None:
        return None
    found = installed(reference)
    if found is None:
        raise RegistryError(
            f"the files of {name!r} (hash {reference['hash']}), which versions share, are not on this machine",
            where=str(bundle),
            remedy="Load the version through MLflow with MLFLOW_TRACKING_URI set, which fetches them; or put the folder"
            f" there as {name}/",
            kind="shared_files_missing",
        )
    return found


def installed(reference: Mapping[str, Any]) -> Path | None:
    """Where shared files are on this machine: in an installed package, or fetched before; None if nowhere."""
    if "revision" in reference:
        for model in PACKAGED:
            try:
                if revision(model) == reference["revision"]:
                    return model_folder(model)
            except ConfigError:  # the package is not installed
                continue
    folder = cache_folder(str(reference["hash"]))
    whole = folder.is_dir() and sum(path.stat().st_size for path in folder.iterdir()) == reference["bytes"]
    return folder if whole else None


def cache_folder(hashed: str) -> Path:
    """Where fetched files are kept, for all processes of a user."""
    return Path(tempfile.gettempdir()) / f"emoray-{getpass.getuser()}" / "files" / hashed


def folder_hash(folder: Path) -> str:
    """Hash of a folder's files, by name and content."""
    found = hashlib.sha256()
    for path in sorted(one for one in folder.iterdir() if one.is_file()):
        with path.open("rb") as file:
            found.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:32]


def total_bytes(bundle: Path) -> int:
    """Size of the files that a bundle refers to."""
    return sum(int(one["bytes"]) for one in references(bundle).values())
