"""decode: read a clip and put its waveform into the row; the table gets only its properties."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from emoray.audio.io import AudioConfig, decode
from emoray.stages.base import WAVEFORM, Row, Stage, Value


class Decode(Stage):
    """Decode, mix down and resample each utterance; sets `row["waveform"]`.

    `storage_options` are for remote file systems, and not part of the fingerprint.
    """

    name = "decode"
    version = 1
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            ("duration_s", pa.float64()),
            ("source_hz", pa.int32()),
            ("channels", pa.int32()),
            ("rms_dbfs", pa.float32()),
            ("clipped_fraction", pa.float32()),
        ]
    )

    def __init__(self, config: AudioConfig, storage_options: dict[str, Any] | None = None) -> None:
        self.config = config
        self.storage_options = storage_options

    def options(self) -> dict[str, Any]:
        """The limits: they decide which clips are refused."""
        return self.config.model_dump(mode="json")

    def run(self, rows: list[Row]) -> list[Value]:
        """Decode; see `emoray.audio.io.decode` for the errors."""
        waveforms = [
            decode(
                row["audio_uri"],
                self.config,
                start_s=row.get("start_s"),
                end_s=row.get("end_s"),
                storage_options=self.storage_options,
            )
            for row in rows
        ]
        # Only after the whole batch: a batch that fails is run again in halves.
        for row, waveform in zip(rows, waveforms, strict=True):
            row[WAVEFORM] = waveform.samples
        return [{field.name: getattr(waveform, field.name) for field in self.value_type} for waveform in waveforms]
