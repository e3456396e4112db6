"""audformat databases: written by us, opened by audformat itself; and read back, ours and those of others."""

from __future__ import annotations

import sys

import audformat
import pandas as pd
import pyarrow as pa
import pytest
from error_kit import of_kind
from interchange_kit import corpus, failed, labels_of, score, scores, utterance

from emoray.errors import InputError, MissingExtraError
from emoray.interchange import audformat_database, audformat_reader
from emoray.schema import DIMENSIONS, utterances_table

WORD = {"word": "no", "start_s": 0.5, "end_s": 1.0, "prominence": 1.5, "emphasised": True}


def written(tmp_path, table, **options):
    found, tally = labels_of(table)
    folder = tmp_path / "database"
    folder.mkdir(parents=True)
    audformat_database.write(str(folder), "calls", table, found, tally, **options)
    return folder, tally


def test_a_corpus_as_audformat_sees_it(tmp_path):
    folder, tally = written(tmp_path, corpus(), audio_root="/audio")
    assert (tally.rows, tally.written, tally.left_out.total()) == (4, 4, 0)
    assert tally.notes == ["1 have no label (no label)"]
    database = audformat.Database.load(str(folder))
    assert (database.name, database.languages, database.is_portable) == ("calls", ["eng"], True)
    assert sorted(database.tables) == ["emotion.dev", "emotion.test2", "emotion.train", "utterances", "votes", "words"]
    assert {name: split.type for name, split in database.splits.items()} == {
        "train": "train",
        "dev": "dev",
        "test2": "test",
    }
    scheme = database.schemes["valence"]
    assert (scheme.minimum, scheme.maximum) == (1.0, 7.0)
    train = database["emotion.train"]
    assert (train.split.type, train["valence"].rater.type) == ("train", "ground truth")
    assert train.df.loc["a.wav", ["valence", "arousal", "dominance", "emotion"]].tolist() == [2.2, 4.0, 2.6, "anger"]
    assert database.schemes["emotion"].labels == ["anger", "joy"]
    assert database["votes"].df.loc["a.wav"].to_dict() == {"votes.anger": 2.0, "votes.joy": 1.0}
    words = database["words"].df.reset_index()
    assert words["word"].tolist() == ["oh", "no"]
    assert words["emphasised"].tolist() == [True, False]
    assert words["start"].dt.total_seconds().tolist() == [0.25, 0.5]
    known = database["utterances"].df.loc["a.wav"]
    assert (known["speaker"], known["gender"], known["transcription"], known["fold"]) == (
        "s1",
        "female",
        "oh no & <more>",
        0,
    )


def test_a_corpus_comes_back_as_it_was(tmp_path):
    table = corpus()
    folder, _ = written(tmp_path, table)
    read = audformat_reader.read(str(folder), "calls").sort_by("utterance_id")
    absent = {"emotion_votes", "words"}  # they are there, as tables of their own, but are not an utterance's columns
    for name in set(table.column_names) - absent:
        assert read[name].to_pylist() == table.sort_by("utterance_id")[name].to_pylist() or name.startswith("scale"), (
            name
        )
    assert read["scale_max"].to_pylist() == [7.0, 7.0, 7.0, None]


def test_segments_of_a_recording(tmp_path):
    call = {"audio_uri": "/audio/call.wav"}
    rows = [
        utterance("one", start_s=0.5, end_s=2.25, words=[{**WORD, "prominence": None}], **call),
        utterance("two", (1.0, 2.0, 3.0), start_s=2.25, **call),
    ]
    rows[0]["words"] = [{name: WORD[name] for name in ("word", "start_s", "end_s", "emphasised")}]
    folder, _ = written(tmp_path, utterances_table(rows))
    database = audformat.Database.load(str(folder))
    index = database["emotion"].df.index
    assert index.get_level_values("start").total_seconds().tolist() == [0.5, 2.25]
    assert pd.isna(index.get_level_values("end")[1])
    assert database["words"].df.index.get_level_values("start").total_seconds().tolist() == [
        1.0
    ]  # from the recording's start
    read = audformat_reader.read(str(folder), "calls").to_pylist()
    assert [(row["utterance_id"], row["start_s"], row["end_s"]) for row in read] == [
        ("one", 0.5, 2.25),
        ("two", 2.25, None),
    ]
    twice = utterance("x", words=rows[0]["words"] * 2)
    _, tally = written(tmp_path / "twice", utterances_table([twice]))
    assert tally.notes == ["1 words have the times of another word and are left out"]
    same = [utterance("a", **call), utterance("b", **call)]
    with pytest.raises(InputError, match=r"utterance b, /audio/call\.wav", check=of_kind("duplicate_span")):
        written(tmp_path / "same", utterances_table(same))


def test_scores_are_a_machines_with_intervals_and_probabilities(tmp_path):
    shares = [{"emotion": "anger", "probability": 0.25}, {"emotion": "joy", "probability": 0.75}]
    folder, tally = written(tmp_path, scores(score("a", emotion=shares), failed("b")), model="emoray-3")
    assert tally.notes == ["1 have no label (not scored: missing_file)"]
    table = audformat.Database.load(str(folder))["emotion"]
    assert (table["arousal"].rater_id, table["arousal"].rater.type) == ("emoray-3", "machine")
    row = table.df.loc["/audio/a.wav"]
    assert row[["valence", "valence.low", "valence.high"]].tolist() == pytest.approx([2.2, 1.6, 2.8])
    assert (row["emotion"], row["probability.anger"], row["probability.joy"]) == ("joy", 0.25, 0.75)
    assert len(table) == 1


def test_what_stages_found_is_a_table_of_its_own(tmp_path):
    table = corpus()
    semantics = [{"emotion": "fury", "intensity": 0.75, "vector": [1.0]}, None, None, None]
    emphasis = [None, {"words": [WORD]}, None, None]
    table = table.append_column("semantics", pa.array(semantics)).append_column("emphasis", pa.array(emphasis))
    folder, _ = written(tmp_path, table, stages=["semantics", "emphasis"])
    database = audformat.Database.load(str(folder))
    found = database["annotations"].df
    assert list(found.columns) == ["semantics.emotion", "semantics.intensity"]
    assert found.iloc[0].tolist() == ["fury", 0.75]
    # What was measured comes before what the corpus says, where there is both.
    assert (
        database["words"].df["prominence"].tolist() == [None, None, 1.5]
        or database["words"].df["prominence"].count() == 1
    )


def test_a_clip_with_a_class_alone_changes_nothing_about_the_scale(tmp_path):
    rows = [utterance("a"), utterance("b", (None, None, None), emotion="joy")]
    folder, tally = written(tmp_path, utterances_table(rows))
    assert tally.notes == []
    frame = audformat.Database.load(str(folder))["emotion"].df
    assert frame["valence"].isna().tolist() == [False, True]
    assert frame["valence"].iloc[0] == 2.2


def test_labels_on_several_scales_are_written_in_0_to_1(tmp_path):
    other = utterance("b") | {"valence_raw": 1.8, "arousal_raw": 3.0, "dominance_raw": 2.0, "scale_max": 5.0}
    folder, tally = written(tmp_path, utterances_table([utterance("a"), other]))
    assert "several scales" in tally.notes[0]
    database = audformat.Database.load(str(folder))
    assert database.schemes["valence"].maximum == 1.0
    assert database["emotion"].df["valence"].tolist() == pytest.approx([0.2, 0.2])


def test_a_database_of_others(tmp_path):
    """Laid out as published ones are: speakers by file, emotions by segment, other names and scales."""
    database = audformat.Database("theirs")
    database.schemes["speaker"] = audformat.Scheme("str")
    database.schemes["activation"] = audformat.Scheme("float", minimum=-1, maximum=1)
    database.schemes["emotion"] = audformat.Scheme(labels=["anger", "joy"])
    database.splits["devel"] = audformat.Split("dev")
    files = database["files"] = audformat.Table(audformat.filewise_index(["x/1.wav", "x/2.wav"]))
    files["spk"] = audformat.Column(scheme_id="speaker")
    files["spk"].set(["s1", "s2"])
    index = audformat.segmented_index(["x/1.wav", "x/1.wav"], ["0s", "1.5s"], ["1.5s", pd.NaT])
    segments = database["segments"] = audformat.Table(index, split_id="devel")
    segments["act"] = audformat.Column(scheme_id="activation")
    segments["act"].set([0.5, -1.0])
    segments["emotion"] = audformat.Column(scheme_id="emotion")
    segments["emotion"].set(["anger", None])
    database.save(str(tmp_path), storage_format="csv")
    rows = audformat_reader.read(str(tmp_path), "theirs").to_pylist()
    assert [row["utterance_id"] for row in rows] == ["x/1#0.000-1.500", "x/1#1.500-", "x/2"]
    assert [row["speaker_id"] for row in rows] == ["s1", "s1", "s2"]
    assert [row["split"] for row in rows] == ["dev", "dev", None]
    assert [row["arousal"] for row in rows] == [0.75, 0.0, None]
    assert [(row["arousal_raw"], row["scale_min"]) for row in rows[:2]] == [(0.5, -1.0), (-1.0, -1.0)]
    assert rows[0]["audio_uri"] == str(tmp_path / "x/1.wav")
    assert rows[0]["emotion"] == "anger"


def broken(tmp_path, change):
    database = audformat.Database("theirs")
    database.schemes["valence"] = audformat.Scheme("float", minimum=1, maximum=7)
    table = database["t"] = audformat.Table(audformat.filewise_index(["1.wav"]))
    change(database, table)
    database.save(str(tmp_path))
    with pytest.raises(InputError) as caught:
        audformat_reader.read(str(tmp_path), "theirs")
    assert caught.value.remedy
    return caught.value


def add(table, name, value, **column):
    table[name] = audformat.Column(**column)
    table[name].set([value])


def test_what_cannot_be_read_is_said(tmp_path):
    def without_scale(database, table):
        database.schemes["valence"] = audformat.Scheme("float")
        add(table, "valence", 1.0, scheme_id="valence")

    error = broken(tmp_path / "a", without_scale)
    assert error.kind == "missing_scale"
    assert "table t: column 'valence'" in str(error)

    def wrong_type(database, table):
        add(table, "fold", "first")

    error = broken(tmp_path / "d", wrong_type)
    assert error.kind == "bad_cell"
    assert error.where.endswith("table t")
    assert broken(tmp_path / "b", lambda _, table: add(table, "pitch", "1")).kind == "missing_column"

    def twice(database, table):
        add(table, "valence", 1.0, scheme_id="valence")
        other = database["u"] = audformat.Table(audformat.filewise_index(["1.wav"]))
        add(other, "valence", 2.0, scheme_id="valence")

    assert broken(tmp_path / "c", twice).kind == "contradiction"
    with pytest.raises(InputError, check=of_kind("damaged_file")):
        audformat_reader.read(str(tmp_path), "x")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "audformat", None)
    with pytest.raises(MissingExtraError, match=r"emoray\[interchange\]"):
        audformat_reader.read(str(tmp_path), "x")


def test_every_dimension_keeps_its_place(tmp_path):
    folder, _ = written(tmp_path, utterances_table([utterance("a", (1.0, 2.0, 3.0))]))
    (row,) = audformat_reader.read(str(folder), "calls").to_pylist()
    assert [row[f"{name}_raw"] for name in DIMENSIONS] == [1.0, 2.0, 3.0]
