import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from error_kit import of_kind

from emoray import corpora
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig, emodb
from emoray.errors import InputError
from emoray.lake.tables import Lake, LakeConfig

SHARED = Path(os.environ.get("EMORAY_EMODB", Path(__file__).parents[4] / "shared" / "emodb"))


def config(path, **changes):
    tree = read_preset("laptop")["corpus"]
    options = {**tree["emodb"], "path": path and str(path), **changes}
    return validate(CorpusConfig, {**tree, "name": "emodb", "kind": "emodb", "emodb": options})


def read(path, **changes):
    table, _ = emodb.read("emodb", config(path, **changes).emodb)
    return table.to_pylist()


@pytest.fixture
def folder(tmp_path):
    """Files as EMO-DB names them, three speakers."""
    (tmp_path / "wav").mkdir()
    names = ("03a01Fa", "03a01Wa", "08b10Nb", "08a07Td", "16a02Lb", "16b03Ea", "16a04Ac", "16b09Wb")
    for place, name in enumerate(names):
        soundfile.write(tmp_path / "wav" / f"{name}.wav", np.full(1600 * (place + 1), 0.1), 16000)
    return tmp_path


def test_the_naming_rule(folder):
    rows = {row["utterance_id"]: row for row in read(folder, classes=7)}
    assert len(rows) == 8
    row = rows["emodb-08b10Nb"]
    assert row["transcript"] == "Die wird auf dem Platz sein, wo wir sie immer hinlegen."
    assert (row["speaker_id"], row["gender"], row["emotion"], row["language"]) == ("08", "female", "neutral", "de")
    assert row["duration_s"] == pytest.approx(0.3)
    assert row["audio_uri"] == str(folder / "wav" / "08b10Nb.wav")
    assert (row["valence"], row["words"], row["split"]) == (None, None, None)
    assert {name[6:]: row["emotion"] for name, row in rows.items()} == {
        "03a01Fa": "happiness", "03a01Wa": "anger", "08b10Nb": "neutral", "08a07Td": "sadness",
        "16a02Lb": "boredom", "16b03Ea": "disgust", "16a04Ac": "fear", "16b09Wb": "anger",
    }  # fmt: skip


def test_four_classes_and_folds_by_speaker(folder):
    rows = read(folder)
    assert {row["emotion"] for row in rows} == {"anger", "happiness", "sadness", "neutral"}
    assert {row["speaker_id"]: row["fold"] for row in rows} == {"03": 0, "08": 1, "16": 2}


def test_the_books_name_the_classes_that_were_left_out(folder):
    _, books = emodb.read("emodb", config(folder).emodb)
    assert (books.read, books.utterances) == (8, 5)
    assert {reason: tally.first for reason, tally in books.left_out.items()} == {
        "class boredom (corpus.emodb.classes)": ["16a02Lb.wav"],
        "class disgust (corpus.emodb.classes)": ["16b03Ea.wav"],
        "class fear (corpus.emodb.classes)": ["16a04Ac.wav"],
    }
    assert sum(emodb.PUBLISHED.emotions.values()) == emodb.PUBLISHED.utterances
    assert sum(books.published.emotions.values()) == 127 + 71 + 62 + 79


def test_a_fold_as_splits(folder):
    splits = {row["speaker_id"]: row["split"] for row in read(folder, test_speaker="16")}
    assert splits == {"16": "test", "03": "dev", "08": "train"}
    with pytest.raises(InputError, match=r"'04'.*03, 08, 16", check=of_kind("unknown_speaker")):
        read(folder, test_speaker="04")


def test_the_wav_folder_itself_and_stray_files(folder, caplog):
    (folder / "wav" / "notes.txt").write_text("not ours")
    assert len(read(folder / "wav")) == 5
    assert "notes.txt" in caplog.text


def test_a_damaged_file_stays_a_row(folder):
    (folder / "wav" / "03a02Nc.wav").write_text("text")
    rows = {row["utterance_id"]: row for row in read(folder)}
    assert rows["emodb-03a02Nc"]["duration_s"] is None


@pytest.mark.parametrize(
    ("where", "kind"), [(None, "not_configured"), ("nowhere", "missing_folder"), ("empty", "missing_files")]
)
def test_a_missing_corpus_says_where_to_get_it(tmp_path, where, kind):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"emodb\.bilderbar\.info", check=of_kind(kind)):
        read(where and tmp_path / where)


def test_build_writes_the_table_and_a_second_run_leaves_it(folder, tmp_path):
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    table = corpora.build(config(folder), lake, lambda done, total: None)
    assert lake.utterances("emodb").equals(table)
    files = lake.list_files("utterances", "emodb")
    corpora.build(config(folder), lake, lambda done, total: None)
    assert lake.list_files("utterances", "emodb") == files
    # New files are seen: what is on disk decides, not the configuration.
    shutil.copy(folder / "wav" / "03a01Fa.wav", folder / "wav" / "03b01Fa.wav")
    assert corpora.build(config(folder), lake, lambda done, total: None).num_rows == table.num_rows + 1
    assert lake.utterances("emodb").num_rows == table.num_rows + 1


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"EMO-DB is absent: {SHARED} (or set EMORAY_EMODB)")
def test_the_real_recordings():
    rows = read(SHARED)
    assert len(rows) == 189
    assert {row["speaker_id"] for row in rows} == {"03", "08", "09", "10", "11", "12"}
    counts = {emotion: sum(row["emotion"] == emotion for row in rows) for emotion in emodb.FOUR_CLASSES}
    assert counts == {"anger": 72, "happiness": 36, "sadness": 34, "neutral": 47}
    assert all(row["transcript"] and row["gender"] and row["duration_s"] > 0.5 for row in rows)
