import csv
import io
import json
import re
from collections import Counter

import numpy as np
import polars as pl
import pytest
import soundfile
from error_kit import of_kind
from hypothesis import given, settings
from hypothesis import strategies as st

from emoray import corpora
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig
from emoray.corpora.manifest import read as manifest
from emoray.errors import EmorayError, InputError, SchemaError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import validate_utterances


def config(path, **changes):
    tree = read_preset("laptop")["corpus"]
    options = {**tree["manifest"], "path": path and str(path), **changes}
    return validate(CorpusConfig, {**tree, "name": "mine", "kind": "manifest", "manifest": options})


def read(path, **changes):
    return manifest.read("mine", config(path, **changes).manifest).to_pylist()


@pytest.fixture
def write(tmp_path):
    def to(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return to


def refused(path, **changes):
    with pytest.raises(InputError) as caught:
        read(path, **changes)
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


def test_csv_with_a_column_map_and_a_scale(write, tmp_path):
    path = write("m.csv", 'clip,who,joy,EmoAct,EmoDom,text\na/one.wav,s1,4,1,5,"Well, yes"\n/abs/two.flac,s2,3,,2,\n')
    columns = {"audio_uri": "clip", "speaker_id": "who", "valence": "joy"}
    first, second = read(path, columns=columns, scale_min=1, scale_max=5, language="en")
    assert first["audio_uri"] == str(tmp_path / "a" / "one.wav")
    assert second["audio_uri"] == "/abs/two.flac"
    # (x - 1) / (5 - 1); V, A, D although the file has them in another order.
    assert [first[name] for name in ("valence", "arousal", "dominance")] == [0.75, 0.0, 1.0]
    assert [first[f"{name}_raw"] for name in ("valence", "arousal", "dominance")] == [4, 1, 5]
    assert (first["scale_min"], first["scale_max"], first["language"]) == (1, 5, "en")
    assert (first["transcript"], second["transcript"]) == ("Well, yes", None)
    assert (second["arousal"], second["arousal_raw"], second["dominance"]) == (None, None, 0.25)
    assert first["utterance_id"] == "a/one"


def test_nemo_lines_need_no_map(write, tmp_path):
    lines = [
        {"audio_filepath": "clips/a.wav", "duration": 2.5, "text": "hello there"},
        {"audio_filepath": "clips/long.wav", "duration": 1.5, "offset": 10.0, "text": "again"},
    ]
    path = write("m.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = read(path)
    assert first["audio_uri"] == str(tmp_path / "clips/a.wav")
    assert (first["duration_s"], first["transcript"], first["start_s"], first["end_s"]) == (
        2.5,
        "hello there",
        None,
        None,
    )
    assert (second["start_s"], second["end_s"]) == (10.0, 11.5)
    assert second["utterance_id"] == "clips/long#10.000-11.500"


def test_msp_style_csv(write):
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    path = write("labels.csv", f"{header}\nMSP-PODCAST_0001_0008.wav,N,2.2,4.0,2.6,30,Male,Development\n")
    (row,) = read(path, scale_min=1, scale_max=7)
    assert [row["valence_raw"], row["arousal_raw"], row["dominance_raw"]] == [4.0, 2.2, 2.6]
    assert row["valence"] == 0.5
    assert (row["split"], row["speaker_id"], row["gender"], row["emotion"]) == ("dev", "30", "Male", "N")


def test_parquet_with_words_and_votes(tmp_path):
    words = [{"word": "yes", "start_s": 0.1, "end_s": 0.4}]
    pl.DataFrame(
        {"audio": ["x.wav"], "words": [words], "emotion_votes": [[{"emotion": "anger", "votes": 3.0}]], "turn": [4]}
    ).write_parquet(tmp_path / "m.parquet")
    (row,) = read(tmp_path / "m.parquet")
    assert row["words"] == [{"word": "yes", "start_s": 0.1, "end_s": 0.4, "emphasised": None}]
    assert (row["emotion_votes"], row["turn"]) == ([{"emotion": "anger", "votes": 3.0}], 4)


def test_a_folder_of_audio(tmp_path):
    for name in ("b.wav", "sub/a.flac", "sub/c.WAV"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "readme.txt").touch()
    rows = read(tmp_path)
    assert [row["utterance_id"] for row in rows] == ["b", "sub/a", "sub/c"]
    assert [row["audio_uri"] for row in rows] == [str(tmp_path / n) for n in ("b.wav", "sub/a.flac", "sub/c.WAV")]
    assert refused(empty_folder(tmp_path)).kind == "missing_files"


def empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.parametrize(
    ("name", "text", "kind", "named"),
    [
        ("m.csv", "audio,valence\na.wav,3\nb.wav,6\n", "label_off_scale", r"line 3.*valence 6.*1\.\.5.*scale_min"),
        ("m.csv", 'audio,valence\na.wav,"3,5"\n', "bad_cell", "line 2.*'valence'.*'3,5'"),
        ("m.csv", "audio,valence\na.wav,inf\n", "bad_cell", "line 2"),
        ("m.csv", "id,audio\nu1,a.wav\nu2,b.wav\nu1,c.wav\n", "duplicate_id", "line 4.*'u1'.*line 2"),
        ("m.csv", "audio,text\na.wav,x\na.wav,y\n", "duplicate_id", "line 3.*'a'.*line 2"),
        (
            "m.csv",
            "clip,text\na.wav,x\n",
            "missing_column",
            r"clip, text.*columns\.audio_uri",
        ),
        ("m.csv", "audio,valnece\na.wav,3\n", "unknown_column", "'valnece'.*valence"),
        ("m.csv", "audio,text\na.wav,x,y\n", "damaged_file", "line 2.*3 .*2"),
        ("m.csv", "audio,audio\na.wav,b.wav\n", "duplicate_column", "line 1.*'audio'"),
        ("m.csv", 'audio,text\n"a.wav,x\n', "damaged_file", "line 2"),
        ("m.csv", "audio,text\n,x\n", "missing_column", "text"),
        ("m.csv", "audio,text\na.wav,x\n,y\n", "empty_cell", "line 3.*'audio'"),
        (
            "m.csv",
            "audio,split\na.wav,Training\nb.wav,holdout\n",
            "bad_cell",
            "line 3.*'holdout'.*train, dev, gate, test",
        ),
        ("m.csv", "audio,start_s,end_s\na.wav,2,1\n", "bad_span", "line 2.*end_s 1 .*start_s 2"),
        ("m.csv", "audio,start_s\na.wav,-1\n", "bad_cell", "line 2.*-1"),
        ("m.csv", "audio,turn\na.wav,1.5\n", "bad_cell", r"line 2.*1\.5"),
        ("m.csv", "audio,scale_min,scale_max,valence\na.wav,5,1,3\n", "bad_scale", r"line 2.*5\.\.1"),
        ("m.csv", "audio,text\n", "empty_table", ""),
        ("m.csv", "", "empty_table", ""),
        ("m.jsonl", '{"audio": "a.wav"}\n{"audio": \n', "damaged_file", "line 2"),
        ("m.jsonl", '["a.wav"]\n', "damaged_file", "line 1.*list"),
        ("m.jsonl", '{"audio": "a.wav", "words": [{"token": "x"}]}\n', "bad_cell", "line 1.*'words'.*word"),
        ("m.jsonl", '{"audio": "a.wav", "words": [{"word": 3}]}\n', "bad_cell", "line 1.*'words'"),
        ("m.jsonl", '{"audio": "a.wav", "valence": true}\n', "bad_cell", "line 1"),
        ("m.jsonl", '{"audio": ["a.wav"]}\n', "bad_cell", "line 1"),
        ("m.parquet", "no parquet", "damaged_file", ""),
        ("m.xlsx", "x", "unknown_format", r"\.xlsx.*\.csv"),
    ],
)
def test_each_mistake_is_named(write, name, text, kind, named):
    error = refused(write(name, text), scale_min=1, scale_max=5)
    assert error.kind == kind, error
    assert name in str(error)
    assert re.search(named, str(error)), error


def test_labels_without_a_scale(write):
    error = refused(write("m.csv", "audio,valence\na.wav,3\n"))
    assert error.kind == "missing_scale"
    assert "corpus.manifest.scale_min" in str(error)


def test_a_column_map_that_does_not_fit(write):
    path = write("m.csv", "audio,mood\na.wav,3\n")
    for columns, kind, nearest in (
        ({"valense": "mood"}, "unknown_column", "'valence'"),
        ({"valence": "moood"}, "missing_column", "'mood'"),
        ({"corpus": "mood"}, "unknown_column", "'corpus'"),
    ):
        error = refused(path, columns=columns)
        assert error.kind == kind
        assert nearest in str(error)


def test_no_manifest(tmp_path):
    assert refused(None).where == "corpus.manifest.path"
    assert refused(tmp_path / "gone.csv").kind == "missing_file"
    (tmp_path / "latin.csv").write_bytes("audio,text\na.wav,ja\nb.wav,schön\n".encode("latin-1"))
    error = refused(tmp_path / "latin.csv")
    assert error.kind == "damaged_file"
    assert error.where.endswith("latin.csv, line 3")


def test_missing_audio_is_left_to_the_decode_stage(write):
    (row,) = read(write("m.csv", "audio\nnowhere.wav\n"))
    assert row["audio_uri"].endswith("nowhere.wav")


def test_splits_are_drawn_by_speaker(write):
    lines = [f"c{clip}.wav,s{clip % 20}" for clip in range(200)] + ["x.wav,", "y.wav,Unknown"]
    path = write("m.csv", "audio,speaker\n" + "\n".join(lines) + "\n")
    rows = read(path)
    of_speaker = {}
    for row in rows:
        if row["speaker_id"] not in (None, "Unknown"):
            assert of_speaker.setdefault(row["speaker_id"], row["split"]) == row["split"]
    assert Counter(of_speaker.values()) == {"train": 14, "dev": 2, "gate": 2, "test": 2}
    assert {row["split"] for row in rows if row["speaker_id"] in (None, "Unknown")} == {"train"}
    assert read(path) == rows
    assert [row["split"] for row in read(path, seed=1)] != [row["split"] for row in rows]


def test_few_speakers_still_give_a_test_set(write):
    path = write("m.csv", "audio,speaker\n" + "".join(f"c{clip}.wav,s{clip % 2}\n" for clip in range(6)))
    assert {row["split"] for row in read(path)} == {"train", "test"}


def test_build_refuses_speakers_in_two_splits(write, tmp_path):
    path = write("m.csv", "audio,speaker,split\na.wav,s1,train\nb.wav,s1,test\n")
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    with pytest.raises(SchemaError, match="'s1'", check=of_kind("speaker_in_two_splits")):
        corpora.build(config(path), lake, lambda done, total: None)
    assert lake.corpora() == []


def test_build_into_the_lake(write, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    seen = []
    table = corpora.build(config(write("m.csv", "audio\na.wav\n")), lake, lambda *step: seen.append(step))
    assert lake.utterances("mine").equals(table)
    assert seen[-1] == (1, 1)


def table_or_error(path):
    try:
        return manifest.read("mine", config(path, scale_min=1, scale_max=5).manifest)
    except EmorayError as error:
        return error


CELLS = st.text(max_size=8) | st.sampled_from(
    ["1", "3.5", "-2", "nan", "1e400", "s1", "Unknown", "train", "test2", "a.wav"]
)
COLUMNS = st.sampled_from(
    ["audio", "valence", "speaker", "split", "start_s", "end_s", "turn", "words", "id", "gender", "ä ö"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(COLUMNS, min_size=1, max_size=5, unique=True).flatmap(
        lambda header: st.tuples(
            st.just(header),
            st.lists(st.lists(CELLS, min_size=len(header), max_size=len(header)), max_size=5),
        )
    )
)
def test_any_csv_gives_a_valid_table_or_a_named_error(tmp_path_factory, table):
    header, cells = table
    text = io.StringIO()
    csv.writer(text).writerows([header, *cells])
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="", errors="surrogatepass")
    result = table_or_error(path)
    if isinstance(result, EmorayError):
        assert str(result)
        assert result.remedy
    else:
        validate_utterances(result)
        assert result.num_rows == sum(any(cell.strip() for cell in row) or len(row) > 1 for row in cells)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["word", "start_s", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(COLUMNS, JSON, max_size=4), min_size=1, max_size=4))
def test_any_jsonl_gives_a_valid_table_or_a_named_error(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = table_or_error(path)
    if isinstance(result, EmorayError):
        assert str(result)
        assert result.remedy
    else:
        validate_utterances(result)
        assert result.num_rows == len(rows)


@settings(deadline=None)
@given(
    low=st.floats(-10, 10),
    width=st.floats(0.5, 100),
    share=st.floats(0, 1),
)
def test_labels_survive_the_way_to_the_unit_scale_and_back(tmp_path_factory, low, width, share):
    high = low + width
    raw = min(max(low + share * width, low), high)
    path = tmp_path_factory.mktemp("scale") / "m.jsonl"
    path.write_text(json.dumps({"audio": "a.wav", "arousal": raw}))
    (row,) = read(path, scale_min=low, scale_max=high)
    assert row["arousal_raw"] == raw
    assert 0 <= row["arousal"] <= 1
    assert low + row["arousal"] * (high - low) == pytest.approx(raw, abs=1e-9)
