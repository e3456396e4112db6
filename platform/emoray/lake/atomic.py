"""Local files and folders that are there whole or not at all: written beside their place, then moved to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path to write to. If the block ends without an error, the file replaces `path`, otherwise it is removed."""
    final, draft = _places(path)
    try:
        yield draft
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, final)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[str]:
    """An empty folder to fill. If the block ends without an error, it becomes `path`, otherwise it is removed.

    A folder that is there already is replaced, or kept where `replace` is false: then another process was faster.
    """
    final, draft = _places(path)
    os.mkdir(draft)
    try:
        yield draft
        aside = f"{draft}.old"
        if replace and os.path.lexists(final):
            os.rename(final, aside)
        try:
            os.rename(draft, final)
        except OSError:
            if os.path.lexists(aside):
                os.rename(aside, final)
            if replace or not os.path.isdir(final):
                raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _places(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The absolute path, and a hidden name beside it that no other process has; makes the parent folder."""
    final = os.path.abspath(path)
    folder, name = os.path.split(final)
    os.makedirs(folder, exist_ok=True)
    return final, os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
