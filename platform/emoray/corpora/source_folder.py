"""A corpus's folder, on a disk or on s3://: which files there are, their text, how long a recording is."""

from __future__ import annotations

import codecs
import os

import soundfile

from emoray.errors import InputError
from emoray.lake.storage import connect, translate_storage_errors

#: macOS adds such a file beside every file that it copies to a foreign disk.
RESOURCE_FORK = "._"


class SourceFolder:
    """A corpus's folder, read-only.

    Args:
        path: Local path or fsspec address.
        key: Configuration key that names it, for messages.
        remedy: What to do if it is missing.

    Raises:
        InputError: No path is given, or it does not exist.
    """

    def __init__(self, path: str | None, key: str, remedy: str) -> None:
        if not path:
            raise InputError("no folder is configured", where=key, remedy=remedy, kind="not_configured")
        self.path = (path if "://" in path else os.path.abspath(os.path.expanduser(path))).rstrip("/")
        self.remedy = remedy
        self._fs, root = connect(self.path)
        self._root = root.rstrip("/")
        with translate_storage_errors("read", self.path):
            if not self._fs.isdir(self._root):
                raise InputError("no such folder", where=self.path, remedy=remedy, kind="missing_folder")

    def uri(self, *parts: str) -> str:
        """Address of a file below the folder."""
        return "/".join([self.path, *parts])

    def names(self, *parts: str) -> list[str]:
        """Sorted names of the content of a folder below, none if it is missing. Hidden files and `._*` are skipped."""
        try:
            with translate_storage_errors("read", self.uri(*parts)):
                found = self._fs.ls(self._inner(*parts), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.startswith((RESOURCE_FORK, ".")))

    def find(self, *candidates: str) -> str | None:
        """The first of some names that the folder has, in any case, as it is spelled there."""
        there = {name.lower(): name for name in self.names()}
        return next((there[name.lower()] for name in candidates if name.lower() in there), None)

    def text(self, *parts: str) -> str | None:
        """A file's text (UTF-8, or UTF-16 with a mark; other bytes become �); None if there is no such file."""
        try:
            with translate_storage_errors("read", self.uri(*parts)):
                content = bytes(self._fs.cat_file(self._inner(*parts)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if marked else "utf-8-sig", errors="replace")

    def duration_s(self, *parts: str) -> float | None:
        """Length of a recording by its header; None if that cannot be read: the decode stage will say why."""
        try:
            with self._fs.open(self._inner(*parts), "rb") as file:
                info = soundfile.info(file)
        except (OSError, soundfile.LibsndfileError):
            return None
        return float(info.frames / info.samplerate)

    def _inner(self, *parts: str) -> str:
        return "/".join([self._root, *parts])
