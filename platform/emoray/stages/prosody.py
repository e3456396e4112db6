"""prosody: fundamental frequency and energy per frame, the input of norms, emphasis and cues."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from emoray.audio.prosody import ProsodyConfig, measure
from emoray.stages.base import WAVEFORM, Row, Stage, Value


class MeasureProsody(Stage):
    """Measure F0 (Hz, 0 where unvoiced) and energy (dB) of each waveform."""

    name = "prosody"
    version = 1
    requires = (WAVEFORM,)
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            ("f0_hz", pa.list_(pa.float32())),
            ("energy_db", pa.list_(pa.float32())),
            ("hop_s", pa.float64()),
        ]
    )

    def __init__(self, config: ProsodyConfig) -> None:
        self.config = config

    def options(self) -> dict[str, Any]:
        """Hop and F0 limits."""
        return self.config.model_dump(mode="json")

    def run(self, rows: list[Row]) -> list[Value]:
        """Measure; arrays are float32 (T,)."""
        return [dict(vars(measure(row[WAVEFORM], self.config))) for row in rows]
