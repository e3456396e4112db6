"""IEMOCAP: trees of the real layout, labels worked out by hand."""

from __future__ import annotations

import pytest
from corpus_trees import IemocapTurn, iemocap_sessions, write_iemocap
from error_kit import of_kind

from emoray import corpora
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig, folds, iemocap
from emoray.errors import InputError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import assert_speaker_disjoint

LAPTOP = read_preset("laptop")["corpus"]


def config(path, **changes):
    options = {**LAPTOP["iemocap"], "path": path and str(path), **changes}
    return validate(CorpusConfig, {**LAPTOP, "name": "iemocap", "kind": "iemocap", "iemocap": options})


def read(path, **changes):
    table, books = iemocap.read("iemocap", config(path, **changes).iemocap)
    assert books.utterances == table.num_rows
    assert books.read == table.num_rows + sum(tally.count for tally in books.left_out.values())
    return {row["utterance_id"].removeprefix("iemocap-"): row for row in table.to_pylist()}, books


def counted(tallies):
    return {reason: tally.count for reason, tally in tallies.items()}


def test_one_turn_column_by_column(tmp_path):
    # The line that the corpus's own description shows: valence 1.5, arousal 4, dominance 4.5.
    turn = IemocapTurn(
        "Ses01F_impro05_F019", 140.225, 145.6, "ang", "1.5000, 4.0000, 4.5000",
        ("C-E1:\tAnger;\t()", "C-E3:\tAnger; Frustration;\t(sarcastic)", "C-E4:\tNeutral state;\t()",
         "C-F1:\tSadness;\t()", "A-E3:\tval 2; act 4; dom  4;\t()", "A-E4:\tval 1; act 4; dom   ;\t(threatening)",
         "A-F1:\tval 1; act 5; dom  5;\t()"),
    )  # fmt: skip
    folder = write_iemocap(tmp_path, [turn])
    rows, _ = read(folder)
    row = rows["Ses01F_impro05_F019"]
    assert [row[name] for name in ("valence_raw", "arousal_raw", "dominance_raw")] == [1.5, 4.0, 4.5]
    assert [row[name] for name in ("valence", "arousal", "dominance")] == [0.125, 0.75, 0.875]
    assert (row["scale_min"], row["scale_max"]) == (1.0, 5.0)
    # The actor's judgement of herself (C-F1) is no evaluator's.
    assert row["emotion_votes"] == [
        {"emotion": "anger", "votes": 2.0},
        {"emotion": "frustration", "votes": 1.0},
        {"emotion": "neutral", "votes": 1.0},
    ]
    assert (row["emotion"], row["speaker_id"], row["gender"], row["language"]) == ("anger", "Ses01F", "female", "en")
    assert (row["dialogue_id"], row["turn"], row["fold"], row["split"]) == ("Ses01F_impro05", 0, 0, None)
    assert row["duration_s"] == pytest.approx(5.375)
    assert row["audio_uri"] == str(
        folder / "Session1" / "sentences" / "wav" / "Ses01F_impro05" / "Ses01F_impro05_F019.wav"
    )
    assert row["transcript"] == "Excuse me."
    # Frames of 10 ms, the last one included; spelled as the transcript spells it.
    assert [(word["word"], round(word["start_s"], 6), round(word["end_s"], 6)) for word in row["words"]] == [
        ("Excuse", 0.41, 0.73),
        ("me.", 0.73, 0.91),
    ]


def test_the_speaker_is_who_speaks_and_not_who_wears_the_markers(tmp_path):
    names = ("Ses02F_script01_1_M004", "Ses02M_impro03_M001", "Ses02M_script03_2b_F000")
    rows, _ = read(write_iemocap(tmp_path, [IemocapTurn(name) for name in names]))
    assert {name: row["speaker_id"] for name, row in rows.items()} == dict(
        zip(names, ("Ses02M", "Ses02M", "Ses02F"), strict=True)
    )
    assert {row["dialogue_id"] for row in rows.values()} == {
        "Ses02F_script01_1",
        "Ses02M_impro03",
        "Ses02M_script03_2b",
    }


def test_means_outside_the_scale_are_clipped_and_missing_dimensions_counted(tmp_path):
    turns = [
        IemocapTurn("Ses01F_impro01_F000", means="0.5000, 5.5000, 3.0000"),
        IemocapTurn("Ses01F_impro01_F001", means=" , 2.0000, 4.0000", raters=()),
        IemocapTurn(
            "Ses01F_impro01_F002",
            means="2.0000, , 4.0000",
            raters=("A-E1:\tval 2; act 5; dom  ;\t()", "A-E2:\tval 2; act 2; dom  4;\t()"),
        ),
    ]
    rows, books = read(write_iemocap(tmp_path, turns))
    clipped = rows["Ses01F_impro01_F000"]
    assert [clipped[name] for name in ("valence", "arousal", "dominance")] == [0.0, 1.0, 0.5]
    assert [clipped[name] for name in ("valence_raw", "arousal_raw")] == [0.5, 5.5]
    missing = rows["Ses01F_impro01_F001"]
    assert (missing["valence"], missing["valence_raw"], missing["arousal"], missing["dominance"]) == (
        None,
        None,
        0.25,
        0.75,
    )
    assert rows["Ses01F_impro01_F002"]["arousal_raw"] == 3.5  # (5 + 2) / 2
    noted = counted(books.noted)
    assert noted["valence outside 1..5, clipped"] == noted["arousal outside 1..5, clipped"] == 1
    assert noted["no valence"] == 1
    assert noted["no mean arousal: taken from the raters"] == 1


def test_turns_follow_the_clock_and_keep_their_places(tmp_path):
    turns = [
        IemocapTurn("Ses01F_impro01_M000", 4.0, 5.0, "hap"),
        IemocapTurn("Ses01F_impro01_F001", 9.0, 9.5, "neu"),
        IemocapTurn("Ses01F_impro01_F000", 1.0, 2.0, "sad"),
        IemocapTurn("Ses01F_impro01_M001", 5.5, 6.0, "xxx"),
    ]
    rows, _ = read(write_iemocap(tmp_path, turns), classes=4)
    places = {name.rpartition("_")[2]: row["turn"] for name, row in rows.items()}
    # What the four classes leave out (M001) still has had its turn.
    assert places == {"F000": 0, "M000": 1, "F001": 3}


EVERY_CLASS = ("ang", "hap", "exc", "sad", "neu", "fru", "sur", "fea", "dis", "oth", "xxx")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (4, ["anger", "happiness", "happiness", "sadness", "neutral"]),
        (5, ["anger", "happiness", "happiness", "sadness", "neutral", "frustration"]),
        (
            "all",
            ["anger", "happiness", "excitement", "sadness", "neutral", "frustration", "surprise", "fear", "disgust",
             "other", "no_agreement"],
        ),
    ],
)  # fmt: skip
def test_classes(tmp_path, classes, expected):
    turns = [
        IemocapTurn(f"Ses01F_impro01_F{number:03d}", 10.0 * number, 10.0 * number + 1, emotion)
        for number, emotion in enumerate(EVERY_CLASS)
    ]
    rows, books = read(write_iemocap(tmp_path, turns), classes=classes)
    assert [row["emotion"] for row in rows.values()] == expected
    assert sum(counted(books.left_out).values()) == len(EVERY_CLASS) - len(expected)
    assert counted(books.noted).get("excitement counted as happiness", 0) == (classes != "all")


def test_the_published_counts_follow_the_classes():
    every = iemocap._published(config("x").iemocap)
    four = iemocap._published(config("x", classes=4).iemocap)
    assert (every.utterances, every.emotions["excitement"]) == (10_039, 1041)
    assert four.emotions["happiness"] == 595 + 1041
    assert sum(four.emotions.values()) == 5_531  # the figure that four-class papers report


def test_what_cannot_be_used_is_left_out_by_reason(tmp_path):
    turns = [
        IemocapTurn("Ses03M_impro03_M001", words=None),
        IemocapTurn("Ses03M_impro03_M002", 8, 9, recorded=False),
        IemocapTurn("Ses03M_impro03_M003", 9, 10, "dunno"),
        IemocapTurn("Ses03M_impro03_M004", 12, 11),
        IemocapTurn("Ses03M_impro03_M005", 13, 14, transcript=None),
        IemocapTurn("Ses03M_impro03_M006", 15, 16, transcript="Something else.", raters=("C-E1:\tWonder;\t()",)),
    ]
    rows, books = read(write_iemocap(tmp_path, [turn for turn in turns if turn.end_s > turn.start_s]))
    assert set(rows) == {f"Ses03M_impro03_M00{number}" for number in (1, 5, 6)}
    assert counted(books.left_out) == {"no recording": 1, "no known name or class": 1}
    noted = counted(books.noted)
    assert (noted["no word times"], noted["no transcript"]) == (1, 1)
    assert noted["alignment has other words than the transcript"] == 1
    assert noted["rater's category that is none of the corpus's, counted as other"] == 1
    assert [word["word"] for word in rows["Ses03M_impro03_M006"]["words"]] == ["excuse", "me"]
    assert rows["Ses03M_impro03_M006"]["emotion_votes"] == [{"emotion": "other", "votes": 1.0}]


def test_a_damaged_line_is_named(tmp_path):
    folder = write_iemocap(tmp_path, [IemocapTurn("Ses01F_impro01_F000")])
    file = folder / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    file.write_text(file.read_text() + "\n[7.0 - 6.0]\tSes01F_impro01_F001\tneu\t[2, 2, 2]\n[oops\n")
    rows, books = read(folder)
    assert len(rows) == 1
    tally = books.left_out["unreadable line"]
    assert tally.count == 2
    assert "Ses01F_impro01.txt, line " in tally.first[0]


def test_five_folds_leave_a_session_out_and_name_the_one_that_validates(tmp_path):
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    folder = write_iemocap(tmp_path, iemocap_sessions())
    table = corpora.build(config(folder, classes=4), lake, lambda done, total: None)
    found = folds.read(lake, "iemocap")
    assert [(fold.fold, fold.test, fold.dev, fold.train) for fold in found] == [
        (0, 0, 1, (2, 3, 4)),
        (1, 1, 2, (0, 3, 4)),
        (2, 2, 3, (0, 1, 4)),
        (3, 3, 4, (0, 1, 2)),
        (4, 4, 0, (1, 2, 3)),
    ]
    tested = []
    for fold in found:
        split = folds.assign(table, fold)
        assert assert_speaker_disjoint(split) == 0
        rows = split.to_pylist()
        assert {row["speaker_id"][:5] for row in rows if row["split"] == "test"} == {f"Ses{fold.test + 1:02d}"}
        assert {row["speaker_id"][:5] for row in rows if row["split"] == "dev"} == {f"Ses{fold.dev + 1:02d}"}
        tested += [row["utterance_id"] for row in rows if row["split"] == "test"]
    assert sorted(tested) == sorted(table["utterance_id"].to_pylist())


def test_one_fold_as_splits(tmp_path):
    folder = write_iemocap(tmp_path, iemocap_sessions())

    def splits(**changes):
        rows, _ = read(folder, **changes)
        return {row["speaker_id"][3:5]: row["split"] for row in rows.values()}

    assert splits(test_session=5) == {"05": "test", "01": "dev", "02": "train", "03": "train", "04": "train"}
    assert splits(test_session=5, dev_session=4)["04"] == "dev"
    assert splits(test_session=5, dev_session=4)["01"] == "train"
    with pytest.raises(InputError, match="dev_session", check=of_kind("same_session")):
        read(folder, test_session=5, dev_session=5)
    with pytest.raises(InputError, match=r"test_session.*6.*1, 2, 3, 4, 5", check=of_kind("unknown_session")):
        read(folder, test_session=6)


@pytest.mark.parametrize(
    ("where", "kind"), [(None, "not_configured"), ("nowhere", "missing_folder"), ("empty", "missing_files")]
)
def test_a_missing_corpus_says_where_to_get_it(tmp_path, where, kind):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"sail\.usc\.edu/iemocap", check=of_kind(kind)):
        read(where and tmp_path / where)
