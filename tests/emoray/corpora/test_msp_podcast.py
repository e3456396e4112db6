"""MSP-Podcast: trees of the real layout, labels worked out by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from corpus_trees import PodcastTurn, Rater, podcast_release, write_msp_podcast
from error_kit import of_kind

from emoray import corpora
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig, msp_podcast
from emoray.errors import ConfigError, InputError, SchemaError
from emoray.lake.tables import Lake, LakeConfig

LAPTOP = read_preset("laptop")["corpus"]
TURN = PodcastTurn("MSP-PODCAST_0001_0008")


def config(path, **changes):
    options = {**LAPTOP["msp_podcast"], "path": path and str(path), **changes}
    return validate(CorpusConfig, {**LAPTOP, "name": "msp", "kind": "msp_podcast", "msp_podcast": options})


def read(path, **changes):
    table, books = msp_podcast.read("msp", config(path, **changes).msp_podcast, lambda done, total: None)
    assert books.utterances == table.num_rows
    assert books.read == table.num_rows + sum(tally.count for tally in books.left_out.values())
    return {row["utterance_id"].removeprefix("msp-MSP-PODCAST_"): row for row in table.to_pylist()}, books


def counted(tallies):
    return {reason: tally.count for reason, tally in tallies.items()}


def test_one_turn_column_by_column(tmp_path):
    # The row that the release's description shows: arousal 2.2, valence 4.0, dominance 2.6.
    folder = write_msp_podcast(tmp_path, [replace(TURN, split="Test1")])
    rows, books = read(folder)
    row = rows["0001_0008"]
    assert [row[name] for name in ("valence_raw", "arousal_raw", "dominance_raw")] == [4.0, 2.2, 2.6]
    # (x - 1) / (7 - 1)
    assert [row[name] for name in ("valence", "arousal", "dominance")] == pytest.approx([0.5, 0.2, 1.6 / 6])
    assert (row["scale_min"], row["scale_max"]) == (1.0, 7.0)
    assert (row["split"], row["speaker_id"], row["gender"], row["emotion"]) == ("test1", "30", "male", "neutral")
    assert row["audio_uri"] == str(folder / "Audios" / "MSP-PODCAST_0001_0008.wav")
    assert row["duration_s"] == pytest.approx(1.0)
    assert row["transcript"] == "Well, I see."
    assert [(word["word"], word["start_s"], word["end_s"]) for word in row["words"]] == [
        ("Well,", 0.1, 0.3),
        ("I", 0.4, 0.5),
        ("see.", 0.5, 0.9),
    ]
    assert (books.version, books.published.utterances) == ("1.11", 151_654)
    assert sum(books.published.splits.values()) == 151_654


@pytest.mark.parametrize("labels_txt", [True, False])
def test_raters_become_votes(tmp_path, labels_txt):
    raters = [
        Rater("Neutral", "Neutral,Confused"),
        Rater("Neutral"),  # no secondary emotions: the field is missing
        Rater("Other-bored to death", "Other-bored to death,Dissapointed,Disappointed"),
        Rater("Sad", "Sad,Concerned"),
    ]
    folder = write_msp_podcast(tmp_path, [replace(TURN, raters=raters)], labels_txt=labels_txt)

    def votes(which):
        (row,) = read(folder, votes=which)[0].values()
        return {vote["emotion"]: vote["votes"] for vote in row["emotion_votes"]}

    assert votes("primary") == {"neutral": 2, "other": 1, "sadness": 1}
    # Both spellings of a rater's one tick are one vote.
    assert votes("secondary") == {
        "neutral": 2, "confusion": 1, "other": 1, "disappointment": 1, "sadness": 1, "concern": 1,
    }  # fmt: skip


def test_classes_o_and_x_are_kept_unless_configured_away(tmp_path):
    turns = [
        replace(TURN, name=f"MSP-PODCAST_0001_{place:04d}", emotion=code) for place, code in enumerate("ASHUFDCNOX")
    ]
    folder = write_msp_podcast(tmp_path, turns)
    rows, _ = read(folder)
    assert [row["emotion"] for row in rows.values()] == [
        "anger", "sadness", "happiness", "surprise", "fear", "disgust", "contempt", "neutral", "other", "no_agreement",
    ]  # fmt: skip
    fewer, books = read(folder, leave_out=["other", "no_agreement"])
    assert len(fewer) == 8
    assert sorted(counted(books.left_out).values()) == [1, 1]
    # What is left out has had its turn.
    assert [row["turn"] for row in fewer.values()] == list(range(8))
    with pytest.raises(ConfigError, match="leave_out", check=of_kind("bad_config")):
        config(folder, leave_out=["X"])


def test_partitions_speakers_and_what_is_unknown(tmp_path):
    names = ("Train", "Development", "Test1", "Test2", "Test3", "Nowhere")
    turns = [
        replace(TURN, name=f"MSP-PODCAST_{place:04d}_0001", split=name, speaker="Unknown" if place < 2 else str(place))
        for place, name in enumerate(names)
    ]
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    folder = write_msp_podcast(tmp_path, turns)
    rows, books = read(folder)
    assert [row["split"] for row in rows.values()] == ["train", "dev", "test1", "test2", "test3"]
    assert counted(books.left_out) == {"no known partition": 1}
    # `Unknown` is no speaker, so that train and dev share none.
    table = corpora.build(config(folder), lake, lambda done, total: None)
    assert table["speaker_id"].to_pylist()[:2] == ["Unknown", "Unknown"]


def test_a_speaker_of_train_in_a_test_set_is_refused_and_test_sets_may_share_theirs(tmp_path):
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    shared = [replace(TURN, name=f"MSP-PODCAST_000{n}_0001", split=f"Test{n}", speaker="7") for n in (1, 2)]
    corpora.build(config(write_msp_podcast(tmp_path / "a", shared)), lake, lambda done, total: None)
    leaking = [*shared, replace(TURN, name="MSP-PODCAST_0003_0001", split="Train", speaker="7")]
    with pytest.raises(SchemaError, match="'7'", check=of_kind("speaker_in_two_splits")):
        corpora.build(config(write_msp_podcast(tmp_path / "b", leaking)), lake, lambda done, total: None)


def test_hidden_labels_of_test3_are_counted_and_can_be_left_away(tmp_path):
    hidden = ("MSP-PODCAST_test3_0001", "MSP-PODCAST_test3_0002")
    folder = write_msp_podcast(tmp_path, [TURN], hidden=hidden, unlabelled=["MSP-PODCAST_9999_0001"])
    rows, books = read(folder)
    assert set(rows) == {"0001_0008", "test3_0001", "test3_0002"}
    row = rows["test3_0001"]
    assert (row["split"], row["speaker_id"], row["emotion"], row["valence"]) == ("test3", "Unknown", None, None)
    assert (row["duration_s"], row["dialogue_id"], row["emotion_votes"]) == (0.5, None, None)
    assert counted(books.noted) == {"test3, labels hidden": 2}
    assert counted(books.left_out) == {"recording without labels": 1}
    fewer, books = read(folder, hidden=False)
    assert set(fewer) == {"0001_0008"}
    assert books.read == 4


def test_oddities_of_rows_are_counted(tmp_path):
    turns = [
        replace(TURN, name="MSP-PODCAST_0001_0001", valence=None),
        replace(TURN, name="MSP-PODCAST_0001_0002", seconds=None),
        replace(TURN, name="MSP-PODCAST_0001_0003", transcript=None, words=None, gender="Unknown"),
        replace(TURN, name="MSP-PODCAST_0001_0004", emotion="?", dominance=7.5),
        replace(TURN, name="MSP-PODCAST_0001_0005"),
        replace(TURN, name="MSP-PODCAST_0001_0005", emotion="A"),
    ]
    folder = write_msp_podcast(tmp_path, turns)
    (folder / "ForceAligned" / "MSP-PODCAST_0001_0005.TextGrid").write_text("File type = nothing of the kind")
    (folder / "Audios" / "MSP-PODCAST_0001_0004.wav").write_text("no sound")
    rows, books = read(folder)
    assert counted(books.left_out) == {"no recording": 1, "file named twice": 1}
    assert (rows["0001_0001"]["valence"], rows["0001_0001"]["arousal"]) == (None, pytest.approx(0.2))
    assert rows["0001_0003"]["gender"] is None
    assert (rows["0001_0004"]["dominance"], rows["0001_0004"]["dominance_raw"]) == (1.0, 7.5)
    assert (rows["0001_0004"]["emotion"], rows["0001_0004"]["duration_s"]) == (None, None)
    assert rows["0001_0005"]["words"] is None
    assert counted(books.noted) == {
        "no valence": 1,
        "no transcript": 1,
        "no word times": 1,
        "no known consensus class": 1,
        "dominance outside 1..7, clipped": 1,
        "recording without a readable header": 1,
        "unreadable alignment": 1,
    }


def test_turns_within_a_podcast_go_by_number_and_not_by_letters(tmp_path):
    # Later releases number parts of segments: _0010_0001 comes after _0009.
    names = ("MSP-PODCAST_0002_0010_0001", "MSP-PODCAST_0002_0009", "MSP-PODCAST_0002_0100", "MSP-PODCAST_0003_0001")
    rows, _ = read(write_msp_podcast(tmp_path, [replace(TURN, name=name) for name in names], version="1.12"))
    assert {name: (row["dialogue_id"][-4:], row["turn"]) for name, row in rows.items()} == {
        "0002_0009": ("0002", 0),
        "0002_0010_0001": ("0002", 1),
        "0002_0100": ("0002", 2),
        "0003_0001": ("0003", 0),
    }


def test_an_early_release(tmp_path):
    """Audio/, labels in the root, no partition and speaker columns, Validation for Development."""
    turns = [replace(turn, split=turn.split.replace("Development", "Validation")) for turn in podcast_release()]
    folder = write_msp_podcast(tmp_path, turns, version="1.8", audio="Audio")
    expected, _ = read(folder)
    lines = (folder / "Labels" / "labels_consensus.csv").read_text().splitlines()
    (folder / "labels_consensus.csv").write_text("\n".join(line.rsplit(",", 3)[0] for line in lines) + "\n")
    shutil.move(folder / "Labels" / "labels.txt", folder / "labels.txt")
    shutil.rmtree(folder / "Labels")
    rows, books = read(folder)
    assert rows == expected
    assert {row["split"] for row in rows.values()} == {"train", "dev", "test1", "test2"}
    assert (books.version, books.published) == ("1.8", None)


def test_consensus_as_json(tmp_path):
    folder = write_msp_podcast(tmp_path, podcast_release())
    expected, _ = read(folder)
    lines = (folder / "Labels" / "labels_consensus.csv").read_text().splitlines()
    header = lines[0].split(",")
    content = {line.split(",")[0]: dict(zip(header[1:], line.split(",")[1:], strict=True)) for line in lines[1:]}
    (folder / "Labels" / "labels_consensus.csv").unlink()
    (folder / "Labels" / "labels_consensus.json").write_text(json.dumps(content))
    assert read(folder)[0] == expected
    (folder / "Labels" / "labels_consensus.json").write_text('{"a.wav": 3}')
    with pytest.raises(InputError, match=r"labels_consensus\.json", check=of_kind("damaged_file")):
        read(folder)


def test_the_result_does_not_depend_on_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(msp_podcast, "CHUNK", 3)
    folder = write_msp_podcast(tmp_path, podcast_release())
    seen = []
    table, _ = msp_podcast.read("msp", config(folder).msp_podcast, lambda *step: seen.append(step))
    alone, _ = msp_podcast.read("msp", config(folder, workers=1).msp_podcast, lambda done, total: None)
    assert table.equals(alone)
    assert seen == [(3, 16), (6, 16), (9, 16), (12, 16), (15, 16), (16, 16)]


@pytest.mark.parametrize(
    ("where", "kind"), [(None, "not_configured"), ("nowhere", "missing_folder"), ("empty", "missing_files")]
)
def test_a_missing_corpus_says_where_to_get_it(tmp_path, where, kind):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"MSP-Podcast\.html.*MSP-PODCAST-Publish", check=of_kind(kind)):
        read(where and tmp_path / where)


def test_labels_that_cannot_be_used_name_the_file(tmp_path):
    folder = write_msp_podcast(tmp_path, [TURN])
    file = folder / "Labels" / "labels_consensus.csv"
    file.write_text(file.read_text().replace("EmoVal", "EmoJoy"))
    with pytest.raises(
        InputError, match=r"labels_consensus\.csv: .*EmoVal .*FileName, EmoClass", check=of_kind("missing_column")
    ):
        read(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"Labels: .*labels_consensus\.csv", check=of_kind("missing_files")):
        read(folder)
