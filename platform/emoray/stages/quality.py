"""quality: how well a clip was recorded, for filters and for inspection. No other stage reads it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pyarrow as pa

from emoray.audio.activity import weights_version
from emoray.audio.quality import QualityConfig, measure
from emoray.stages.base import WAVEFORM, Row, Stage, Value


class MeasureQuality(Stage):
    """Measure loudness, flattened tops, noise and the share of speech of each waveform."""

    name = "quality"
    version = 1
    requires = (WAVEFORM,)
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            ("loudness_lufs", pa.float32()),
            ("flat_top_fraction", pa.float32()),
            ("snr_db", pa.float32()),
            ("speech_s", pa.float32()),
            ("speech_fraction", pa.float32()),
        ]
    )

    def __init__(self, config: QualityConfig) -> None:
        self.config = config

    def options(self) -> dict[str, Any]:
        """When sound is speech, and the weights that decide it."""
        return {"activity": self.config.activity.model_dump(mode="json"), "model": weights_version()}

    def run(self, rows: list[Row]) -> list[Value]:
        """Measure; see `emoray.audio.quality.Quality` for the fields and when they are None."""
        return [dataclasses.asdict(measure(row[WAVEFORM], self.config)) for row in rows]
