"""The count of what became of every utterance."""

from __future__ import annotations

import polars as pl
import pytest
from annotate_kit import config_for, make_corpus

from emoray.errors import LakeError
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray_jobs.annotate import summary


def test_outcomes_that_another_run_took_away_are_said_to_be_gone(tmp_path):
    config = config_for(tmp_path)
    make_corpus(tmp_path, 3)
    lake = Lake(config.lake)
    stages = pipeline.audio_stages(config.annotate, {})
    filtered = pl.DataFrame(schema={"utterance_id": pl.String, "reason": pl.String})
    kept = pl.DataFrame({"utterance_id": lake.utterances(config.corpus.name)["utterance_id"].to_pylist()})
    with pytest.raises(LakeError, match=r"3 utterances have lost outcomes.*Run the same command again"):
        summary.classify_utterances(lake, 3, kept, filtered, stages, pipeline.fingerprints(config.annotate, None))
