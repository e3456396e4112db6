"""Where a clip's audio is, for other programs: names below a folder, and URIs with a span of time."""

from __future__ import annotations

import os
import re
import urllib.parse

from emoray.errors import InputError

#: Characters that a path in a URI may have unquoted; not among them are `#` and `%`.
PATH_SAFE = "/:@!$&'()*+,;=~-._"
#: Media Fragments URI 1.0, temporal dimension in seconds (normal play time), in our form and in others.
TIME_FRAGMENT = re.compile(r"t=(?:npt:)?(\d+(?:\.\d*)?)?(?:,(\d+(?:\.\d*)?))?")


def below(audio_uri: str, root: str | None) -> str:
    """The audio's name below the folder `root`, so that file and audio can be moved together; None keeps the address.

    Raises:
        InputError: The audio is not below that folder.
    """
    if root is None:
        return audio_uri
    folder = root.rstrip("/") if "://" in root else os.path.abspath(os.path.expanduser(root))
    if not audio_uri.startswith(f"{folder}/"):
        raise InputError(
            f"the audio {audio_uri} is not below {folder}",
            where="--audio-root",
            remedy="Name a folder that contains all audio, or leave the option out to keep whole addresses",
            kind="not_below",
        )
    return audio_uri[len(folder) + 1 :]


def reference(name: str, start_s: float | None, end_s: float | None) -> str:
    """URI of a span of audio: `file:///folder/a%20b.wav#t=1.5,3`.

    `name` is a path, a path below a folder, or an address; addresses of the web are URIs already. A missing start or
    end is the audio's.
    """
    scheme, separator, path = name.rpartition("://")
    if scheme in ("http", "https"):
        uri = name
    elif separator:
        uri = f"{scheme}://{urllib.parse.quote(path, safe=PATH_SAFE)}"
    else:
        quoted = urllib.parse.quote(name, safe=PATH_SAFE)
        # A colon in the first segment would make it a scheme.
        uri = f"file://{quoted}" if name.startswith("/") else f"./{quoted}" if ":" in name.split("/")[0] else quoted
    if start_s is None and end_s is None:
        return uri
    return f"{uri}#t={_seconds(start_s or 0.0)}" + ("" if end_s is None else f",{_seconds(end_s)}")


def parse_reference(uri: str, folder: str) -> tuple[str, float | None, float | None]:
    """Path or address, start_s and end_s of a URI: the inverse of `reference`. Relative paths start from `folder`.

    Raises:
        ValueError: Its fragment is not a span of time in seconds.
    """
    address, _, fragment = uri.partition("#")
    start_s = end_s = None
    if fragment:
        match = TIME_FRAGMENT.fullmatch(fragment)
        if match is None or match.groups() == (None, None):
            raise ValueError(f"the fragment {fragment!r} is not a span of time in seconds (t=1.5,3)")
        start_s, end_s = (None if text is None else float(text) for text in match.groups())
        if end_s is not None and end_s <= (start_s or 0.0):
            raise ValueError(f"the span {fragment!r} is empty")
    if address.startswith(("http://", "https://")):
        return address, start_s, end_s
    path = urllib.parse.unquote(address)
    if path.startswith("file://"):
        path = path.removeprefix("file://").removeprefix("localhost")
    return resolve(path, folder), start_s, end_s


def resolve(name: str, folder: str) -> str:
    """The address for a name in a file; relative names start from the file's folder."""
    if "://" in name or os.path.isabs(name):
        return name
    return f"{folder}/{name}" if "://" in folder else os.path.normpath(os.path.join(os.path.abspath(folder), name))


def _seconds(value: float) -> str:
    # Decimal notation without an exponent, to the microsecond: 3, 1.5, 0.000013.
    return f"{value:.6f}".rstrip("0").rstrip(".")
