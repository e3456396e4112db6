"""decode: open a clip and put its waveform into the row (only facts about it go to the table)."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from emoray.audio.io import AudioConfig, decode
from emoray.stages.base import WAVEFORM, Row, Stage, Value


class Decode(Stage):
    """Decode, mix down and resample each utterance; sets `row["waveform"]`.

    Args:
        config: Limits on what counts as usable audio.
        storage_options: Options for remote file systems; not part of the fingerprint.
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
        values = []
        waveforms = []
        for row in rows:
            waveform = decode(
                row["audio_uri"],
                self.config,
                start_s=row.get("start_s"),
                end_s=row.get("end_s"),
                storage_options=self.storage_options,
            )
            waveforms.append(waveform.samples)
            values.append(
                {
                    "duration_s": waveform.duration_s,
                    "source_hz": waveform.source_hz,
                    "channels": waveform.channels,
                    "rms_dbfs": waveform.rms_dbfs,
                    "clipped_fraction": waveform.clipped_fraction,
                }
            )
        # Only once the whole batch is through: a batch that fails is run again in halves.
        for row, samples in zip(rows, waveforms, strict=True):
            row[WAVEFORM] = samples
        return values
