"""Where a clip's audio is, as other programs want it said: names below a folder, and URIs with a stretch of time."""

from __future__ import annotations

import os
import re
import urllib.parse

from emoray.errors import InputError

#: What may stand in a path of a URI as it is; `#` and `%`, above all, may not.
PATH_SAFE = "/:@!$&'()*+,;=~-._"
#: Media Fragments URI 1.0, temporal dimension in seconds (normal play time), as we write it and as others may.
TIME_FRAGMENT = re.compile(r"t=(?:npt:)?(\d+(?:\.\d*)?)?(?:,(\d+(?:\.\d*)?))?")


def below(audio_uri: str, root: str | None) -> str:
    """The audio's name below a folder, so that what names it can be moved together with it.

    Args:
        audio_uri: Path or address of the audio.
        root: The folder; None leaves the address as it is.

    Raises:
        InputError: It does not lie there.
    """
    if root is None:
        return audio_uri
    folder = root.rstrip("/") if "://" in root else os.path.abspath(os.path.expanduser(root))
    if not audio_uri.startswith(f"{folder}/"):
        raise InputError(
            f"the audio {audio_uri} does not lie below {folder}",
            where="--audio-root",
            remedy="Name a folder that all audio lies below, or leave the option out to keep whole addresses",
        )
    return audio_uri[len(folder) + 1 :]


def reference(name: str, start_s: float | None, end_s: float | None) -> str:
    """URI of a stretch of audio: `file:///folder/a%20b.wav#t=1.5,3`.

    Args:
        name: Path, path below a folder, or address. Addresses of the web are URIs already.
        start_s: Where the stretch begins; None for the audio's beginning.
        end_s: Where it ends; None for the audio's end.
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
    """The audio and the stretch that a URI names: the inverse of `reference`.

    Args:
        uri: The URI.
        folder: What relative ones start from.

    Returns:
        Path or address, start_s and end_s.

    Raises:
        ValueError: Its fragment is not a stretch of time in seconds.
    """
    address, _, fragment = uri.partition("#")
    start_s = end_s = None
    if fragment:
        match = TIME_FRAGMENT.fullmatch(fragment)
        if match is None or match.groups() == (None, None):
            raise ValueError(f"the fragment {fragment!r} is not a stretch of time in seconds (t=1.5,3)")
        start_s, end_s = (None if text is None else float(text) for text in match.groups())
        if end_s is not None and end_s <= (start_s or 0.0):
            raise ValueError(f"the stretch {fragment!r} is empty")
    if address.startswith(("http://", "https://")):
        return address, start_s, end_s
    path = urllib.parse.unquote(address)
    if path.startswith("file://"):
        path = path.removeprefix("file://").removeprefix("localhost")
    return resolve(path, folder), start_s, end_s


def resolve(name: str, folder: str) -> str:
    """A name in a file as an address: relative ones start from the file's folder."""
    if "://" in name or os.path.isabs(name):
        return name
    return f"{folder}/{name}" if "://" in folder else os.path.normpath(os.path.join(os.path.abspath(folder), name))


def _seconds(value: float) -> str:
    # Decimal notation without an exponent, to the microsecond: 3, 1.5, 0.000013.
    return f"{value:.6f}".rstrip("0").rstrip(".")
