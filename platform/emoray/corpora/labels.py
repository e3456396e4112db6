"""A corpus's labels, on our scale."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from emoray.corpora.import_report import ImportReport
from emoray.schema import DIMENSIONS


def on_scale(
    raw: Mapping[str, float | None], scale: tuple[float, float], report: ImportReport, utterance_id: str
) -> dict[str, Any]:
    """Columns of the utterances table for a corpus's dimensional labels.

    A label outside the scale is clipped to it, and counted; so is a missing one. The raw columns keep the corpus's
    values.

    Args:
        raw: valence, arousal, dominance on the corpus's scale; None where one is missing. By name, because the order
            differs between corpora.
    """
    low, high = scale
    columns: dict[str, Any] = {}
    for name in DIMENSIONS:
        value = raw[name]
        if value is None:
            report.note(f"no {name}", utterance_id)
            continue
        if not low <= value <= high:
            report.note(f"{name} outside {low:g}..{high:g}, clipped", utterance_id)
        columns[name] = (min(max(value, low), high) - low) / (high - low)
        columns[f"{name}_raw"] = value
    return columns | ({"scale_min": low, "scale_max": high} if columns else {})


def number(text: object) -> float | None:
    """A finite number, or None for anything else."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def votes(emotions: Iterable[str]) -> list[dict[str, Any]] | None:
    """The `emotion_votes` column of raters' choices: most votes first, then by name; None without any."""
    ordered = sorted(Counter(emotions).items(), key=lambda item: (-item[1], item[0]))
    return [{"emotion": emotion, "votes": float(count)} for emotion, count in ordered] or None
