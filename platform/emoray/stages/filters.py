"""Filters: which utterances are worth annotating. Nothing is deleted, and no fingerprint depends on them.

A filter is held against what the stage tables say of a clip: an utterance that lies outside is left out of the stages
that follow, of training and of evaluation, and is counted with its reason. What was computed of it stays, and it comes
back as soon as the filter lets it. What was not measured (an error, a clip too short for a loudness) is no reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow.dataset as pads

from emoray.config import Section
from emoray.lake.tables import Lake

#: Measure → the stage whose value has it. A row that lies outside several is counted for the first of them.
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
    """What a measure may be, ends included.

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
        languages: Codes of the languages that the recogniser may have heard (`en` also means `en-GB`); None: any.
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
        """The measures that are filtered by."""
        given = {name: getattr(self, name) for name in STAGE_OF if name != "language"}
        bounded = [name for name, bounds in given.items() if bounds != NO_BOUNDS]
        return bounded if self.languages is None else [*bounded, "language"]

    @property
    def reads(self) -> set[str]:
        """The stages whose values are read."""
        return {STAGE_OF[name] for name in self.measures}


def excluded(lake: Lake, rows: pl.DataFrame, config: FiltersConfig, fingerprints: Mapping[str, str]) -> pl.DataFrame:
    """Which rows lie outside, as far as they are measured.

    Args:
        lake: Where the stage tables are.
        rows: utterance_id, and whatever else.
        config: The filters.
        fingerprints: Fingerprint of the stages to hold rows against; filters on the values of others do not bite.

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
        values = pl.from_arrow(table)
        assert isinstance(values, pl.DataFrame)
        outside = values.filter(_outside(measure, config)).unique("utterance_id").select("utterance_id")
        found = ids.join(outside, on="utterance_id", how="semi").join(out, on="utterance_id", how="anti")
        out = pl.concat([out, found.with_columns(reason=pl.lit(measure))])
    return out


def _outside(measure: str, config: FiltersConfig) -> pl.Expr:
    """Null, which does not filter, where there is no value."""
    if measure == "language":
        wanted = [language.lower() for language in config.languages or ()]
        heard = pl.col(measure).str.to_lowercase()
        return ~(heard.is_in(wanted) | heard.str.split("-").list.first().is_in(wanted))
    bounds: Bounds = getattr(config, measure)
    below = pl.lit(False) if bounds.min is None else pl.col(measure) < bounds.min
    above = pl.lit(False) if bounds.max is None else pl.col(measure) > bounds.max
    return below | above
