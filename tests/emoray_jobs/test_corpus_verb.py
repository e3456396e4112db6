"""corpus: what it says of a table, against figures counted by hand."""

from __future__ import annotations

import pytest
from annotate_kit import CORPUS, config_for, utterance

from emoray.errors import LakeError
from emoray.lake import Lake
from emoray.schema import utterances_table
from emoray_jobs import corpus


def labelled(number: int, valence: float, **columns):
    scale = {"valence": valence, "valence_raw": 1 + 4 * valence, "scale_min": 1.0, "scale_max": 5.0}
    return utterance(number, "x.wav", duration_s=1800.0, **scale, **columns)


def test_statistics(tmp_path):
    config = config_for(tmp_path)
    rows = [
        labelled(0, 0.0, emotion="sadness"),
        labelled(1, 1.0, emotion="anger"),
        labelled(2, 0.55, emotion="anger", speaker_id="Unknown"),
        labelled(3, 0.5, split=None, transcript=None),
    ]
    Lake(config.lake).write_utterances(CORPUS, utterances_table(rows))
    stats = corpus.stats(config)
    assert stats.splits == [
        corpus.SplitStats("train", 2, 1, 1, 1.0),
        corpus.SplitStats("none", 1, 1, 0, 0.5),
        corpus.SplitStats("test", 1, 1, 0, 0.5),
    ]
    assert stats.histograms == {"valence": [1, 0, 0, 0, 2, 0, 0, 1]}
    assert stats.emotions == {"anger": 2, "sadness": 1}
    assert (stats.scale, stats.transcripts) == ((1.0, 5.0), 3)
    assert corpus.listing(config).corpora == {CORPUS: 4}


def test_a_lake_without_corpora(tmp_path):
    config = config_for(tmp_path)
    assert corpus.listing(config).corpora == {}
    with pytest.raises(LakeError, match="Import it first"):
        corpus.stats(config)


def test_build_from_a_manifest_reports_and_lands_in_the_lake(tmp_path):
    manifest = tmp_path / "calls.csv"
    manifest.write_text("path,speaker,text\na.wav,ann,hello\nb.wav,bob,goodbye\n")
    config = config_for(tmp_path / "lake", "corpus.kind=manifest", f"corpus.manifest.path={manifest}")
    stats = corpus.build(config)
    assert sum(split.utterances for split in stats.splits) == 2
    assert stats.transcripts == 2
    assert Lake(config.lake).utterances(CORPUS)["speaker_id"].to_pylist() == ["ann", "bob"]
