"""Hash of the measured code: a benchmark that was interrupted does not resume with other code."""

from __future__ import annotations

import hashlib
from pathlib import Path

import emoray
import emoray_jobs

PACKAGES = (Path(emoray.__file__).parent, Path(emoray_jobs.__file__).parent)


def mark(*settings: object, packages: tuple[Path, ...] = PACKAGES) -> str:
    """Twelve hexadecimal digits over settings and all files of the packages.

    Args:
        *settings: Settings of the benchmark; `str` must give the same text each time.
        packages: Folders of the code.
    """
    digest = hashlib.sha256("\0".join(map(str, settings)).encode())
    for package in packages:
        for file in sorted(package.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"\0{file.relative_to(package)}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
