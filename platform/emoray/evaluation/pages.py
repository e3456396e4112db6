"""HTML pages: one style, no address outside the page, one format of figures."""

from __future__ import annotations

from typing import Any

import jinja2

from emoray.evaluation.summary import TITLES, level_title

SYNTHETIC_NOTE = (
    "Synthetic speech with planted labels: this table tests the software. It is no evidence about how people express"
    " or perceive emotion, nor for any paper's claim about people. Dominance is planted as pitch below the speaker's"
    " habit and arousal as pace, loudness and pitch range; the description reports these same measures, so what it adds"
    " here is the plant found again."
)


def render(template: str, **values: Any) -> str:
    """A page from a template of this package, with the names of levels and metrics and the note on synthetic speech."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emoray.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _number
    shared = {"level_title": level_title, "titles": TITLES, "synthetic_note": SYNTHETIC_NOTE}
    return environment.get_template(template).render(**shared, **values)


def _number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A figure for a table: an en dash if it is undefined, a real minus sign."""
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # −0.00 becomes 0.00
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")
