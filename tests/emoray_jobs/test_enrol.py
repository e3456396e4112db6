"""enrol: a speaker's norms from recordings, found by score; what cannot be used is named."""

from __future__ import annotations

import pytest
from annotate_kit import config_for, write_clip
from error_kit import of_kind
from scoring_kit import SENTENCE, make_bundle

from emoray.errors import InputError
from emoray.lake import speakers
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import connect
from emoray_jobs import enrol
from emoray_jobs.score import job as score


@pytest.fixture(autouse=True)
def _read_at_once(monkeypatch):
    monkeypatch.setattr(speakers, "KEEP_S", -1.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A lake with a champion, and a folder of recordings of which one is broken."""
    folder = tmp_path_factory.mktemp("enrol")
    config = config_for(folder / "lake")
    tracking = connect(config.tracking, Lake(config.lake))
    bundle = make_bundle(folder / "bundle")
    version = log_bundle(tracking, tracking.start_run("made"), bundle, card="# A model", tags={})
    versions.set_alias(tracking, versions.CHAMPION, version)
    clips = folder / "clips"
    clips.mkdir()
    for number in range(6):
        write_clip(str(clips / f"{number}.wav"), number)
    (clips / "broken.wav").write_bytes(b"not audio")
    return config, clips


def test_an_enrolled_speaker_is_known_to_score(place):
    config, clips = place
    clip = [str(clips / "0.wav")]
    asked = {"sources": clip, "transcript": SENTENCE, "speaker": "Ann"}
    before = score.run(config, **asked).scores[0]["value"]
    assert (before["speaker_clips"], before["condition"]) == (0, "unknown/reference")
    result = enrol.run(config, speaker="Ann", sources=[str(clips)])
    assert result.clips == 6
    assert [name.rpartition("/")[2] for name in result.left_out] == ["broken"]
    after = score.run(config, **asked, name="again").scores[0]["value"]
    assert (after["speaker_clips"], after["condition"]) == (6, "enrolled-5/reference")
    other = score.run(config, **{**asked, "speaker": "Bob"}).scores[0]["value"]
    assert other["valence"] == before["valence"]
    assert [after[name]["value"] for name in ("valence", "arousal")] != [
        before[name]["value"] for name in ("valence", "arousal")
    ]


def test_an_enrolment_replaces_the_earlier_one(place):
    config, clips = place
    enrol.run(config, speaker="Cid", sources=[str(clips / "1.wav"), str(clips / "2.wav")])
    assert enrol.run(config, speaker="Cid", sources=[str(clips / "3.wav")]).clips == 1
    scored = score.run(config, sources=[str(clips / "1.wav")], transcript=SENTENCE, speaker="Cid").scores[0]["value"]
    assert scored["speaker_clips"] == 1
    assert scored["condition"] == "unknown/reference"  # the version met five clips of a speaker, or none


def test_nothing_usable_is_an_error_that_says_why(place):
    config, clips = place
    with pytest.raises(InputError, match=r"none of 1 recordings", check=of_kind("nothing_enrolled")):
        enrol.run(config, speaker="Dee", sources=[str(clips / "broken.wav")])
