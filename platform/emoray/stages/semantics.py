"""semantics: what a listener would say about the clip (the text behind ES), by one of several writers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pyarrow as pa

from emoray.config import Section
from emoray.errors import ConfigError
from emoray.stages.base import Row, Stage, Value
from emoray.stages.cues import describe
from emoray.stages.delivery import measure_delivery
from emoray.stages.norms import Norms
from emoray.stages.record import SemanticsRecord, render_semantics


class CuesConfig(Section):
    """Measured prosody in words.

    Attributes:
        against: Whose norms the clip is held against: the `speaker`'s, or the `corpus`'s (an ablation).
    """

    against: Literal["speaker", "corpus"]


class SemanticsConfig(Section):
    """Which writer."""

    kind: Literal["cues"]
    cues: CuesConfig


class Semantics(Stage):
    """Base of the writers: the record's fields and `text`, which is what gets embedded."""

    name = "semantics"
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            ("emotion", pa.string()),
            ("intensity", pa.float64()),
            ("attitude", pa.string()),
            ("intention", pa.string()),
            ("vocal_delivery", pa.string()),
            ("summary", pa.string()),
            ("text", pa.string()),
        ]
    )


class CuesSemantics(Semantics):
    """Writes from measured prosody; reads the transcript for the speaking rate only, never for its words.

    Args:
        config: Whose norms.
        norms: What to hold the clip against.
    """

    version = 1
    requires = ("prosody",)
    uses = ("transcribe",)
    needs_norms = True

    def __init__(self, config: CuesConfig, norms: Norms | None) -> None:
        self.config = config
        self.norms = norms

    def options(self) -> dict[str, Any]:
        """Kind and whose norms."""
        return {"kind": "cues", **self.config.model_dump(mode="json")}

    def run(self, rows: list[Row]) -> list[Value]:
        """Describe each clip."""
        assert self.norms is not None
        values = []
        for row in rows:
            speaker = row.get("speaker_id") if self.config.against == "speaker" else None
            measures = measure_delivery(row["prosody"], row.get("transcribe"))
            values.append(semantics_value(describe(measures, self.norms.for_speaker(speaker))))
        return values


def semantics_value(record: SemanticsRecord) -> Value:
    """The stage's value for a record."""
    return {**record.model_dump(), "text": render_semantics(record)}


def writer(config: SemanticsConfig, norms: Norms | None) -> Semantics:
    """The writer that the configuration names.

    Raises:
        ConfigError: There is no such kind.
    """
    if config.kind == "cues":
        return CuesSemantics(config.cues, norms)
    raise ConfigError(f"unknown semantics writer {config.kind!r}", where="annotate.semantics.kind")
