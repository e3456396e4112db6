"""Tables as the verbs print them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def titled_table(title: str, text: Sequence[str], figures: Sequence[str] = ()) -> Table:
    """An empty table: columns with these headings for text, then for figures."""
    made = Table(title=title, title_justify="left")
    for heading in text:
        made.add_column(heading)
    for heading in figures:
        made.add_column(heading, justify="right")
    return made
