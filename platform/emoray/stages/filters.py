"""Filters: which utterances are annotated. Nothing is deleted, and no fingerprint depends on them.

A filter is compared with a clip's values in the stage tables: an utterance outside is left out of the following stages,
of training and of evaluation, and is counted with its reason. Its computed values stay, and it returns as soon as the
filter allows it. A missing value (an error, a clip too short for a loudness) is no reason to leave a row out.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow.dataset as pads

from emoray.config import Section
from emoray.lake.tables import Lake

#: Measure → the stage whose value has it. A row outside several bounds is counted for the first measure.
STAGE_OF = {
    "duration_s": "decode",
    "clipped_fraction": "decode",
    "loudness_lufs": "quality",
    "flat_top_fraction": "quality",
    "snr_db": "quality",
    "speech_s": "quality",
    "language": "transcribe",
}


class Bounds(Section):
    """Bounds of a measure, ends included.

    Attributes:
        min, max: None: no bound on that side.
    """

    min: float | None
    max: float | None


NO_BOUNDS = Bounds(min=None, max=None)


class FiltersConfig(Section):
    """Which utterances are annotated.

    Attributes:
        duration_s: Length of the clip.
        clipped_fraction: Share of the file's samples at full scale.
        loudness_lufs: Integrated loudness.
        flat_top_fraction: Share of the samples in flattened tops.
        snr_db: Signal-to-noise ratio.
        speech_s: Seconds of speech in the clip.
        languages: Codes of the languages that the recogniser may have found (`en` also means `en-GB`); None: any.
    """

    duration_s: Bounds
    clipped_fraction: Bounds
    loudness_lufs: Bounds
    flat_top_fraction: Bounds
    snr_db: Bounds
    speech_s: Bounds
    languages: tuple[str, ...] | None

    @property
    def measures(self) -> list[str]:
        """The measures with a filter."""
        given = {name: getattr(self, name) for name in STAGE_OF if name != "language"}
        bounded = [name for name, bounds in given.items() if bounds != NO_BOUNDS]
        return bounded if self.languages is None else [*bounded, "language"]

    @property
    def reads(self) -> set[str]:
        """The stages whose values are read."""
        return {STAGE_OF[name] for name in self.measures}


def excluded(lake: Lake, rows: pl.DataFrame, config: FiltersConfig, fingerprints: Mapping[str, str]) -> pl.DataFrame:
    """Which rows are outside the filters, where their measures are known.

    Args:
        rows: utterance_id, and other columns.
        fingerprints: Fingerprints of the stages to read; filters on other stages' values have no effect.

    Returns:
        utterance_id and reason (the measure) of the rows to leave out.
    """
    ids = rows.select("utterance_id")
    out = ids.clear().with_columns(reason=pl.lit(None, pl.String))
    for measure in config.measures:
        stage = STAGE_OF[measure]
        if stage not in fingerprints:
            continue
        columns = {"utterance_id": pads.field("utterance_id"), measure: pads.field("value", measure)}
        table = lake.read_stage(stage, fingerprints[stage], columns)
        if table is None:
            continue
        values = pl.DataFrame(table)
        outside = values.filter(_outside(measure, config)).unique("utterance_id").select("utterance_id")
        found = ids.join(outside, on="utterance_id", how="semi").join(out, on="utterance_id", how="anti")
        out = pl.concat([out, found.with_columns(reason=pl.lit(measure))])
    return out


def _outside(measure: str, config: FiltersConfig) -> pl.Expr:
    """Null, which does not filter, if there is no value."""
    if measure == "language":
        wanted = [language.lower() for language in config.languages or ()]
        heard = pl.col(measure).str.to_lowercase()
        return ~(heard.is_in(wanted) | heard.str.split("-").list.first().is_in(wanted))
    bounds: Bounds = getattr(config, measure)
    below = pl.lit(False) if bounds.min is None else pl.col(measure) < bounds.min
    above = pl.lit(False) if bounds.max is None else pl.col(measure) > bounds.max
    return below | above
