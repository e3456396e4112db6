"""Filters against stage tables written by hand."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from emoray.config import merge, read_preset, validate
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import stage_schema
from emoray.stages.decode import Decode
from emoray.stages.filters import FiltersConfig, excluded
from emoray.stages.quality import MeasureQuality
from emoray.stages.transcribe.stage import Transcribe

PRINTS = {"decode": "d", "quality": "q", "transcribe": "t"}
ROWS = pl.DataFrame({"utterance_id": [f"u{number}" for number in range(6)]})


def filters(**over) -> FiltersConfig:
    return validate(FiltersConfig, merge(read_preset("laptop")["annotate"]["filters"], over))


@pytest.fixture
def lake(tmp_path):
    """u0..u4: durations 1..5 s, noise 10..50 dB, a language each; u5 could not be decoded, u1 has no noise figure."""
    lake = Lake(LakeConfig(root=str(tmp_path), storage_options={}))
    languages = ["en", "en-GB", "de", "DE", None]
    failed = {"type": "silent_audio", "message": "silent", "attempts": 1}

    def write(stage, values):
        rows = [{"utterance_id": f"u{number}", "value": value} for number, value in enumerate(values)]
        rows.append({"utterance_id": "u5", "value": None, "error": failed})
        lake.append_stage(stage.name, PRINTS[stage.name], pa.Table.from_pylist(rows, stage_schema(stage.value_type)))

    write(Decode, [{"duration_s": 1.0 + number, "clipped_fraction": number / 10} for number in range(5)])
    write(MeasureQuality, [{"snr_db": None if n == 1 else 10.0 * (n + 1), "speech_s": 1.0} for n in range(5)])
    write(Transcribe, [{"text": "x", "language": language} for language in languages])
    return lake


def left_out(lake, config, prints=PRINTS):
    return dict(excluded(lake, ROWS, config, prints).sort("utterance_id").iter_rows())


def test_no_filter_leaves_nothing_out_and_reads_nothing(lake):
    assert filters().reads == set()
    assert left_out(lake, filters()) == {}


@pytest.mark.parametrize(
    ("over", "out"),
    [
        ({"duration_s": {"min": 2.0}}, {"u0": "duration_s"}),  # the ends are included; u5 has no duration
        ({"duration_s": {"min": 2.0, "max": 4.0}}, {"u0": "duration_s", "u4": "duration_s"}),
        ({"clipped_fraction": {"max": 0.25}}, {"u3": "clipped_fraction", "u4": "clipped_fraction"}),
        ({"snr_db": {"min": 25.0}}, {"u0": "snr_db"}),  # not u1, whose noise could not be measured
        ({"languages": ["en"]}, {"u2": "language", "u3": "language"}),
        ({"languages": ["en-gb"]}, {"u0": "language", "u2": "language", "u3": "language"}),
        ({"languages": ["De", "en"]}, {}),
        ({"languages": []}, {"u0": "language", "u1": "language", "u2": "language", "u3": "language"}),
        (
            {"duration_s": {"max": 3.0}, "clipped_fraction": {"max": 0.1}, "languages": ["en"]},
            {"u2": "clipped_fraction", "u3": "duration_s", "u4": "duration_s"},  # one reason each, the first
        ),
    ],
)
def test_what_is_left_out_and_why(lake, over, out):
    assert left_out(lake, filters(**over)) == out


def test_only_named_stages_and_rows_are_held_against(lake):
    config = filters(duration_s={"min": 2.0}, languages=["en"])
    assert config.reads == {"decode", "transcribe"}
    assert left_out(lake, config, {"decode": "d"}) == {"u0": "duration_s"}
    assert left_out(lake, config, {"decode": "another"}) == {}
    some = excluded(lake, ROWS.filter(pl.col("utterance_id") > "u2"), config, PRINTS)
    assert some.rows() == [("u3", "language")]
