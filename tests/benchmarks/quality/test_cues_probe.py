"""The cues' benchmark: file names, a probe that sees other actors only, and counts of what is said."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from benchmarks.quality.cues import CLASSES, Clips, arousal_auc, phrase_shares, probe, utterances


def planted(actors: int = 4, per_class: int = 5) -> Clips:
    """Clips whose level tells each class from the others; one vector of the text is the actor's own."""
    rows, away, text = [], [], []
    rng = np.random.default_rng(0)
    for actor in range(actors):
        for number, emotion in enumerate(CLASSES):
            for take in range(per_class):
                rows.append({"utterance_id": f"{actor}{emotion}{take}", "speaker_id": f"a{actor}", "fold": actor})
                rows[-1]["emotion_true"] = emotion
                away.append({"level_db": number - 3.5, "pitch_st": float(rng.normal())})
                text.append([float(actor), rng.normal()])
    return Clips(pl.DataFrame(rows), np.array(text), away)


def test_a_file_name_says_who_says_what_and_how(tmp_path):
    folder = tmp_path / "Actor_06"
    folder.mkdir()
    (folder / "03-01-05-02-02-01-06.flac").touch()
    (row,) = utterances(tmp_path)
    assert (row["emotion"], row["speaker_id"], row["fold"]) == ("angry", "actor06", 1)
    assert row["transcript"] == "Dogs are sitting by the door"
    assert row["split"] is None  # a corpus of folds: norms then come from all of its clips


def test_the_probe_names_what_it_can_see_on_actors_it_never_saw():
    clips = planted()
    jitter = np.random.default_rng(1).normal(scale=0.05, size=(len(clips.away), 2))
    level = np.array([[one["level_db"], one["level_db"] ** 2] for one in clips.away])
    seen = probe(level + jitter, clips.frame)
    assert seen["emotion_pred"].to_list() == seen["emotion_true"].to_list()
    blind = probe(clips.text_NE, clips.frame)
    assert np.mean(blind["emotion_pred"].to_numpy() == blind["emotion_true"].to_numpy()) < 0.3


def test_auc_is_judged_on_classes_of_clear_arousal_only():
    clips = planted()
    # In the order of the classes: neutral, calm, sad lie below fearful and surprised; happy below sad, angry above.
    levels = {emotion: place for place, emotion in enumerate(CLASSES)}
    high, low = ("happy", "angry", "fearful", "surprised"), ("neutral", "calm", "sad")
    expected = np.mean([levels[one] > levels[other] for one in high for other in low])
    found = arousal_auc(clips)
    assert found["level_db"] == pytest.approx(expected)
    assert found["range_st"] == 0.5  # never measured here


def test_shares_of_a_phrase_are_of_its_class():
    shares = phrase_shares(planted())
    assert shares["voice very much quieter"] == {name: float(name in ("neutral", "calm")) for name in CLASSES}
    assert "voice as usual" not in shares
    assert sum(of["sad"] for phrase, of in shares.items() if phrase.startswith("pitch ")) == pytest.approx(1)
