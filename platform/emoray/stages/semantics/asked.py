"""What a prompt may name of a row: its words with their emphasis, its language, and its measured delivery in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emoray.stages.base import Row
from emoray.stages.embed import word_spans
from emoray.stages.norms import Expectation
from emoray.stages.prosodic_features import measure_prosodic_features
from emoray.stages.semantics.cues import describe

#: The names.
FIELDS = frozenset({"transcript", "language", "delivery"})
#: Stands for the words of a clip in which none were recognised, or that nobody transcribed.
NO_TRANSCRIPT = "There is no transcript of this clip."


def asked_of(row: Row, expected: Expectation) -> dict[str, str]:
    """Values of the names.

    Args:
        row: With `prosody`; `transcribe` and `emphasis` are used if they are there.
        expected: What its delivery is measured against.
    """
    transcribe = row.get("transcribe") or {}
    text = transcribe.get("text") or ""
    return {
        "transcript": _with_capitals(text, row.get("emphasis")) if text.strip() else NO_TRANSCRIPT,
        "language": transcribe.get("language") or "unknown",
        "delivery": describe(measure_prosodic_features(row["prosody"], row.get("transcribe")), expected).text,
    }


def _with_capitals(text: str, emphasis: Mapping[str, Any] | None) -> str:
    words = emphasis["words"] if emphasis else []
    spans = word_spans(text, [word["word"] for word in words])
    # From the end, as some letters get longer: the places of the words before stay what they are.
    for word, span in reversed(list(zip(words, spans, strict=True))):
        if word["emphasised"] and span is not None:
            start, end = span
            text = text[:start] + text[start:end].upper() + text[end:]
    return text
