"""Enrolled speakers on the lake: kept, replaced, read by whoever scores."""

from __future__ import annotations

import pytest

from emoray.errors import LakeError
from emoray.lake import speakers
from emoray.lake.speakers import StoredSpeakers, store_speaker
from emoray.lake.tables import Lake, LakeConfig


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))


def test_a_speaker_is_found_by_the_measures_that_enrolled_it(lake):
    known = StoredSpeakers(lake, "aa")
    assert (known.get("Ann"), known.get(""), len(known), list(known)) == (None, None, 0, [])
    store_speaker(lake, "Ann / ümlaut", "aa", {"clips": 5.0, "pitch_st": 3.0})
    store_speaker(lake, "Ann / ümlaut", "bb", {"clips": 2.0})
    assert StoredSpeakers(lake, "aa")["Ann / ümlaut"] == {"clips": 5.0, "pitch_st": 3.0}
    assert StoredSpeakers(lake, "bb")["Ann / ümlaut"] == {"clips": 2.0}
    assert StoredSpeakers(lake, "cc").get("Ann / ümlaut") is None
    assert list(StoredSpeakers(lake, "aa")) == ["Ann / ümlaut"]


def test_a_new_enrolment_counts_after_a_while(lake, monkeypatch):
    known = StoredSpeakers(lake, "aa")
    assert known.get("Ann") is None
    store_speaker(lake, "Ann", "aa", {"clips": 1.0})
    assert known.get("Ann") is None  # what was read is kept for some seconds
    monkeypatch.setattr(speakers, "KEEP_S", -1.0)
    assert known.get("Ann") == {"clips": 1.0}
    store_speaker(lake, "Ann", "aa", {"clips": 6.0})
    assert known.get("Ann") == {"clips": 6.0}


def test_storage_that_is_away_makes_a_speaker_unknown_not_a_score_impossible(lake, monkeypatch, caplog):
    store_speaker(lake, "Ann", "aa", {"clips": 1.0})

    def away(*_):
        raise LakeError("no route to the storage")

    monkeypatch.setattr(lake, "read_json", away)
    assert StoredSpeakers(lake, "aa").get("Ann") is None
    assert "no route" in caplog.text
