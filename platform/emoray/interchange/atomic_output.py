"""Exports come whole or not at all: written beside their place, or in scratch space, and brought there at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from emoray.errors import InputError
from emoray.lake.storage import connect, translate_storage_errors


@contextlib.contextmanager
def atomic_output(
    uri: str, options: Mapping[str, Any] | None = None, *, force: bool, header: str | None = None
) -> Iterator[str]:
    """A local path to write to, which is brought to its place when the block ends without an error.

    A file replaces another in one step. A folder takes the place of another in two (on s3:// file by file, its header
    last): what is read in between is missing, never mixed.

    Args:
        uri: Local path or fsspec address.
        options: Options of its file system.
        force: Replace what is there.
        header: For a folder, the file in it without which it is nothing; with `force`, a folder that lacks it is not
            replaced. None for a file.

    Yields:
        Path of the file to write, or of an empty folder.

    Raises:
        InputError: There is something already, or something that is not replaced.
        TransientError: The storage is throttled or away.
        LakeError: It cannot be written there.
    """
    uri = uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
    system, final = connect(uri, options)
    local = "://" not in uri or uri.startswith("file://")
    with contextlib.ExitStack() as stack:
        stack.enter_context(translate_storage_errors("write", uri))
        _refuse(system, final, uri, force, header)
        if local:
            os.makedirs(os.path.dirname(final), exist_ok=True)
            path = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.{uuid.uuid4().hex}.tmp")
            stack.callback(_remove, path)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="emoray-export-"))
            path = os.path.join(folder, "whole")
        if header is not None:
            os.mkdir(path)
        yield path
        # Somebody else may have come first while this was written.
        _refuse(system, final, uri, force, header)
        if local:
            _move(path, final)
        elif header is None:
            system.put_file(path, final)
        else:
            _upload(system, path, final, header)


def _refuse(system: Any, final: str, uri: str, force: bool, header: str | None) -> None:
    system.invalidate_cache()
    if not system.exists(final):
        return
    if not force:
        raise InputError(
            "there is something already", where=uri, remedy="Add --force to replace it, or name another --out"
        )
    if header is None and system.isdir(final):
        raise InputError("this is a folder, not a file", where=uri, remedy="Name a file with --out")
    if header is not None and not system.exists(f"{final.rstrip('/')}/{header}"):
        raise InputError(
            f"this is no earlier export ({header} is not in it), and is not replaced",
            where=uri,
            remedy="Name another folder with --out",
        )


def _move(path: str, final: str) -> None:
    if os.path.isdir(path):
        aside = f"{path}.old"
        if os.path.lexists(final):
            os.rename(final, aside)
        try:
            os.rename(path, final)
        except OSError:
            if os.path.lexists(aside):
                os.rename(aside, final)
            raise
        _remove(aside)
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    os.replace(path, final)


def _upload(system: Any, path: str, final: str, header: str) -> None:
    if system.exists(final):
        system.rm_file(f"{final}/{header}")
        with contextlib.suppress(FileNotFoundError):  # stores have no empty folders
            system.rm(final, recursive=True)
    for name in sorted(os.listdir(path), key=lambda name: (name == header, name)):
        system.put_file(os.path.join(path, name), f"{final}/{name}")


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
