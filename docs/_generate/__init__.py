"""The generated parts of the documentation, read from the code while Sphinx builds it.

A page of docs/reference holds a line `<!-- generated: NAME -->`; while Sphinx reads the page, the line becomes the
Markdown that `PAGES[NAME]` gives. Nothing is written to disk, so that no page can show older code.
"""

from __future__ import annotations

from collections.abc import Callable

from _generate import commands, configuration, http_api

PAGES: dict[str, Callable[[], str]] = {
    "commands": commands.page,
    "configuration": configuration.page,
    "presets": configuration.presets_page,
    "http": http_api.page,
}
