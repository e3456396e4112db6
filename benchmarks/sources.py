"""Which code was measured: what a benchmark left half-done under other code is not gone on with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import emoray
import emoray_jobs

PACKAGES = (Path(emoray.__file__).parent, Path(emoray_jobs.__file__).parent)


def mark(*settings: object, packages: tuple[Path, ...] = PACKAGES) -> str:
    """Twelve hex digits that are others under other settings, and once a file of the packages is changed.

    Args:
        settings: What the benchmark was asked for, in words that `str` gives alike each time.
        packages: Folders of the code.
    """
    digest = hashlib.sha256("\0".join(map(str, settings)).encode())
    for package in packages:
        for file in sorted(package.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"\0{file.relative_to(package)}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
