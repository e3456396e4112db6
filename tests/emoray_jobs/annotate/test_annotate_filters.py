"""Filters from end to end: what they leave out costs nothing more, is counted, trains nothing, and comes back."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile
from annotate_kit import config_for, leave_out_encoder, make_corpus, rows_written, utterance

from emoray.audio.io import AUDIO_HZ
from emoray.errors import LakeError
from emoray.lake.tables import Lake
from emoray.schema import utterances_table
from emoray_jobs.annotate import job as annotate
from emoray_jobs.annotate import plan as annotate_plan
from emoray_jobs.annotate.summary import Counts
from emoray_jobs.train.training_set import training_keys

FILTERS = ("annotate.filters.loudness_lufs={min: -50}", "annotate.filters.languages=[en]")
QUIET, GERMAN = "u100", "u101"
GOOD = [f"u{number:03d}" for number in range(6)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_session):
    """Six good clips, a whispered one and a German one; annotated with filters, then without, then with them again."""
    root = tmp_path_factory.mktemp("filters")
    make_corpus(root, len(GOOD))
    lake = Lake(config_for(root).lake)
    whispered_S, hz = soundfile.read(lake.path("audio", "u000.wav"))
    assert hz == AUDIO_HZ
    rows = Lake(config_for(root).lake).utterances("buzz").to_pylist()
    for number, samples_S, language in ((100, 0.005 * whispered_S, "en"), (101, np.roll(whispered_S, 99), "de-AT")):
        path = os.path.join(root, f"extra{number}.wav")
        soundfile.write(path, samples_S, hz, subtype="FLOAT")
        rows.append(utterance(number, path, language=language))

    lake.write_utterances("buzz", utterances_table(rows))
    return root


@pytest.fixture(scope="module")
def runs(place):
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_encoder(monkeypatch)
        filtered = annotate.run(config_for(place, *FILTERS))
        ids = {
            stage: rows_written(config_for(place), stage, mark)
            for stage, mark in filtered.fingerprints.items()
            if stage != "embed_transcript"
        }
        planned = annotate_plan.run(config_for(place))
        everything = annotate.run(config_for(place))
        again = annotate.run(config_for(place, *FILTERS))
        planned_again = annotate_plan.run(config_for(place, *FILTERS))
    return filtered, ids, planned, everything, again, planned_again


def of(result, stage):
    return next(one for one in result.stages if one.name == stage)


def test_what_is_left_out_is_counted_and_goes_no_further(runs):
    filtered, ids, *_ = runs
    assert filtered.counts == Counts(8, 6, 0, 0, {"language": 1, "loudness_lufs": 1})
    assert ids["decode"] == ids["quality"] == [*GOOD, QUIET, GERMAN]
    assert ids["prosody"] == ids["transcribe"] == [*GOOD, GERMAN]
    assert ids["emphasis"] == ids["semantics"] == GOOD
    assert of(filtered, "decode").computed == 8


def test_without_the_filter_they_come_back_at_the_cost_of_what_they_lack(runs):
    filtered, _, planned, everything, *_ = runs
    assert everything.counts == Counts(8, 8, 0, 0, {})
    assert everything.norms_hash == filtered.norms_hash
    assert everything.fingerprints == {k: v for k, v in filtered.fingerprints.items() if k != "quality"}
    lacking = {"decode": 0, "prosody": 1, "transcribe": 1, "emphasis": 2, "semantics": 2}
    assert {one.name: one.computed for one in everything.stages} == lacking
    assert {one.name: one.compute for one in planned.stages} == lacking, "the plan says so before"
    assert planned.filtered == {}


def test_the_filter_set_again_computes_nothing(runs):
    filtered, *_, again, planned_again = runs
    assert again.counts == filtered.counts
    assert again.fingerprints == filtered.fingerprints
    assert sum(one.computed for one in again.stages) == 0
    assert planned_again.filtered == {"language": 1, "loudness_lufs": 1}
    assert sum(one.compute for one in planned_again.stages) == 0


def test_a_training_set_is_within_the_filters(place, runs):
    lake = Lake(config_for(place).lake)

    def keys(*overrides):
        config = config_for(place, *overrides)
        return training_keys(lake, config.corpus.name, config.annotate, [])["utterance_id"].to_list()

    assert keys() == [*GOOD, QUIET, GERMAN]
    assert keys(*FILTERS) == GOOD
    assert keys("annotate.filters.duration_s={min: 60}") == []
    with pytest.raises(LakeError, match="reads quality, and corpus 'buzz' was not annotated with it"):
        keys("annotate.filters.snr_db={min: 1}", "annotate.quality.activity.enter=0.9")
