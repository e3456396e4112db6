"""Errors by their stable `kind`, never by their prose: `pytest.raises(LakeError, check=of_kind("missing_file"))`.

`match` beside it is for what the user gave: a path, a configuration key, a value.
"""

from __future__ import annotations

from collections.abc import Callable

from emoray.errors import EmorayError


def of_kind(kind: str) -> Callable[[EmorayError], bool]:
    """A check that an error has this kind."""

    def check(error: EmorayError) -> bool:
        assert error.kind == kind, f"{error.kind}: {error}"
        return True

    return check
