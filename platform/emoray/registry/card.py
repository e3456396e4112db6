"""The model card of a version, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from emoray.evaluation.pages import SYNTHETIC_NOTE
from emoray.models.build import MODELS
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import Bundle


def model_card(
    bundle: Bundle,
    *,
    title: str,
    corpus: str,
    facts: Mapping[str, str],
    synthetic: bool,
    limits: Sequence[str] = (),
) -> str:
    """Write the card.

    `facts` (run id, hashes, seeds, commit …) are shown as they are; `limits` are further known limits.
    """
    docstring = " ".join((MODELS[bundle.config.name].__doc__ or "").split("\n\n")[0].split())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emoray.registry", "templates"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    numbers: dict[str, Any] = {name: value for name, value in bundle.metrics.items() if isinstance(value, float)}
    return environment.get_template("model_card.md.j2").render(
        title=title,
        summary=docstring,
        facts={"model": bundle.config.name, "corpus": corpus, **facts},
        scale=bundle.scale,
        level=bundle.conformal_level,
        classes=bundle.config.classes,
        reads=[name.upper() for name in bundle.granularities],
        metrics=numbers,
        half_widths=bundle.half_widths,
        dimensions=DIMENSIONS,
        synthetic=synthetic,
        synthetic_note=SYNTHETIC_NOTE,
        limits=limits,
        fingerprints=bundle.fingerprints,
        norms=bundle.norms.hash,
    )
