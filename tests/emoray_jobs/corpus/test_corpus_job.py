"""corpus: what it says of a table, against figures counted by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from annotate_kit import CORPUS, config_for, utterance
from corpus_trees import iemocap_sessions, podcast_release, write_iemocap, write_msp_podcast
from rich.console import Console

from emoray import corpora
from emoray.errors import LakeError
from emoray.lake.tables import Lake
from emoray.schema import utterances_table
from emoray_jobs.corpus import job as corpus


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


def printed(result):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(corpus.render(result))
    return console.export_text()


def test_stats_of_msp_podcast_show_what_was_left_out_beside_the_published_counts(tmp_path):
    odd = [
        replace(podcast_release()[0], name="MSP-PODCAST_0000_0007", emotion="X", speaker="Unknown"),
        replace(podcast_release()[0], name="MSP-PODCAST_0000_0008", seconds=None),
    ]
    folder = write_msp_podcast(tmp_path, [*podcast_release(), *odd], hidden=["MSP-PODCAST_test3_0001"])
    options = (
        "corpus.kind=msp_podcast", f"corpus.msp_podcast.path={folder}", "corpus.msp_podcast.leave_out=[no_agreement]",
    )  # fmt: skip
    stats = corpus.build(config_for(tmp_path / "lake", *options))
    assert stats == corpus.stats(config_for(tmp_path / "lake", *options))
    assert {split.split: (split.utterances, split.speakers, split.unknown_speakers) for split in stats.splits} == {
        "train": (4, 2, 0), "dev": (4, 2, 0), "test1": (4, 2, 0), "test2": (4, 2, 0), "test3": (1, 0, 1),
    }  # fmt: skip
    assert (stats.transcripts, stats.timed, stats.voted, stats.dialogues) == (16, 16, 16, 8)
    shown = printed(stats)
    assert "84,030 by 1,409 speakers" in shown
    assert "published (1.11): 151,654 utterances, 238 h" in shown
    assert "19 read from" in shown
    assert "17 in the table, 2 left out" in shown
    assert "left out: 1 no recording (MSP-PODCAST_0000_0008.wav)" in shown
    assert "left out: 1 class no_agreement (corpus.msp_podcast.leave_out) (MSP-PODCAST_0000_0007.wav)" in shown
    assert "noted: 1 test3, labels hidden (MSP-PODCAST_test3_0001.wav)" in shown


def test_stats_of_iemocap_show_folds_and_published_classes(tmp_path):
    folder = write_iemocap(tmp_path, iemocap_sessions())
    options = ("corpus.kind=iemocap", f"corpus.iemocap.path={folder}", "corpus.iemocap.classes=4")
    stats = corpus.build(config_for(tmp_path / "lake", *options))
    assert [(split.split, split.utterances, split.speakers) for split in stats.splits] == [("none", 20, 10)]
    shown = printed(stats)
    assert "5 folds, the other parts train: 0: test 0, dev 1; 1: test 1, dev 2" in shown
    assert (
        "published (full release): 10,039 utterances, neutral 1,708, happiness 1,636, anger 1,103, sadness 1,084"
        in shown
    )


def test_books_of_another_table_are_not_shown(tmp_path):
    manifest = tmp_path / "calls.csv"
    manifest.write_text("path,speaker,text\na.wav,ann,hello\nb.wav,bob,goodbye\n")
    config = config_for(tmp_path / "lake", "corpus.kind=manifest", f"corpus.manifest.path={manifest}")
    assert corpus.build(config).books.read == 2
    Lake(config.lake).write_utterances(CORPUS, utterances_table([labelled(0, 0.5)]))
    assert corpus.stats(config).books is None


def test_recordings_that_are_cut_take_away_the_books_of_an_older_table(tmp_path):
    config = config_for(tmp_path / "lake")
    lake = Lake(config.lake)
    lake.write_utterances(CORPUS, utterances_table([labelled(0, 0.5)]))
    corpora.import_report.write(lake, CORPUS, corpora.ImportReport("there", read=1, utterances=1))
    assert corpus.stats(config).books.source == "there"
    corpora.import_report.write(lake, CORPUS, None)
    assert corpus.stats(config).books is None
