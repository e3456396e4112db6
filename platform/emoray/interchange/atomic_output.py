"""Exports are there whole or not at all: written beside their place or in temporary space, moved there at the end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from emoray.errors import InputError
from emoray.lake.atomic import atomic_file, atomic_folder
from emoray.lake.storage import connect, translate_storage_errors


@contextlib.contextmanager
def atomic_output(
    uri: str, options: Mapping[str, Any] | None = None, *, force: bool, header: str | None = None
) -> Iterator[str]:
    """A local path to write to; what is written is moved or uploaded to `uri` when the block ends without an error.

    A file replaces another in one step. A folder replaces another in two (on s3:// file by file, its header last):
    what is read in between is missing, never mixed.

    Args:
        uri: Local path or fsspec address.
        header: For a folder, the file that every complete one has; with `force`, a folder without it is not replaced.
            None for a file.

    Yields:
        Path of the file to write, or of an empty folder.

    Raises:
        InputError: `uri` exists already, or must not be replaced.
        TransientError: The storage is throttled or unavailable.
        LakeError: It cannot be written there.
    """
    uri = uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
    system, final = connect(uri, options)
    local = "://" not in uri or uri.startswith("file://")
    with contextlib.ExitStack() as stack:
        stack.enter_context(translate_storage_errors("write", uri))
        _refuse(system, final, uri, force, header)
        if local:
            path = stack.enter_context(atomic_file(final) if header is None else atomic_folder(final))
        else:
            path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory(prefix="emoray-export-")), "output")
            if header is not None:
                os.mkdir(path)
        yield path
        # Another process may have been faster.
        _refuse(system, final, uri, force, header)
        if not local:
            _upload(system, path, final, header)


def _refuse(system: Any, final: str, uri: str, force: bool, header: str | None) -> None:
    system.invalidate_cache()
    if not system.exists(final):
        return
    if not force:
        raise InputError(
            "it exists already", where=uri, remedy="Add --force to replace it, or name another --out", kind="exists"
        )
    if header is None and system.isdir(final):
        raise InputError("this is a folder, not a file", where=uri, remedy="Name a file with --out", kind="is_folder")
    if header is not None and not system.exists(f"{final.rstrip('/')}/{header}"):
        raise InputError(
            f"this is not an earlier export ({header} is not in it), so it is not replaced",
            where=uri,
            remedy="Name another folder with --out",
            kind="not_an_export",
        )


def _upload(system: Any, path: str, final: str, header: str | None) -> None:
    if header is None:
        system.put_file(path, final)
        return
    if system.exists(final):
        system.rm_file(f"{final}/{header}")
        with contextlib.suppress(FileNotFoundError):  # stores have no empty folders
            system.rm(final, recursive=True)
    for name in sorted(os.listdir(path), key=lambda name: (name == header, name)):
        system.put_file(os.path.join(path, name), f"{final}/{name}")
