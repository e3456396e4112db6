"""Datasets of Hugging Face, made by the library itself; nothing comes from the hub."""

from __future__ import annotations

import io
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from error_kit import of_kind

from emoray import corpora
from emoray.audio.io import AudioConfig, decode
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig
from emoray.errors import InputError, MissingExtraError
from emoray.lake.tables import Lake, LakeConfig

LAPTOP = read_preset("laptop")["corpus"]
CLASSES = ["neutral", "anger"]


@pytest.fixture
def lake(tmp_path):
    return Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def build(path, lake, **changes):
    options = {**LAPTOP["huggingface"], "path": path and str(path), **changes}
    config = validate(CorpusConfig, {**LAPTOP, "name": "hf", "kind": "huggingface", "huggingface": options})
    return corpora.build(config, lake, lambda done, total: None).to_pylist()


def wav(seconds):
    buffer = io.BytesIO()
    time = np.arange(round(seconds * 16_000)) / 16_000
    soundfile.write(buffer, 0.5 * np.sin(2 * np.pi * 220 * time), 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def dataset(sounds, **columns):
    """As the hub has it: sound and its name in Parquet. (Encoding sound through datasets would take torchcodec.)"""
    sound = pa.array(sounds, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    made = datasets.Dataset(pa.table({"audio": sound, **columns})).cast_column("audio", datasets.Audio(decode=False))
    return made.cast_column("label", datasets.ClassLabel(names=CLASSES)) if "label" in columns else made


def clips(*lengths):
    return [{"bytes": wav(seconds), "path": f"clip{place}.wav"} for place, seconds in enumerate(lengths)]


def test_splits_labels_and_sound_of_a_saved_dataset(tmp_path, lake):
    parts = {
        "train": dataset(
            clips(0.5, 0.6), label=[1, 0], speaker=["a", "b"], EmoAct=[1, 2], EmoVal=[5, 3], EmoDom=[2, 4]
        ),
        "validation": dataset(clips(0.7), label=[-1], speaker=["c"], EmoAct=[1], EmoVal=[1], EmoDom=[1]),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    rows = build(tmp_path / "saved", lake, scale_min=1, scale_max=5)
    assert [row["utterance_id"] for row in rows] == ["train-000000", "train-000001", "validation-000000"]
    assert [row["split"] for row in rows] == ["train", "train", "dev"]
    assert [row["emotion"] for row in rows] == ["anger", "neutral", None]
    assert [rows[0][name] for name in ("valence", "arousal", "dominance")] == [1.0, 0.0, 0.25]
    for row, seconds in zip(rows, (0.5, 0.6, 0.7), strict=True):
        sound = decode(row["audio_uri"], AudioConfig(min_duration_s=0.1, max_duration_s=9, silence_dbfs=-70))
        assert sound.duration_s == pytest.approx(seconds)
    assert build(tmp_path / "saved", lake, scale_min=1, scale_max=5, splits=["validation"])[0]["speaker_id"] == "c"


def test_the_same_sound_is_written_once_and_a_second_build_writes_none(tmp_path, lake):
    dataset(clips(0.5, 0.5, 0.6)).save_to_disk(str(tmp_path / "saved"))
    first = build(tmp_path / "saved", lake)
    files = lake.list_files("audio", "hf", suffix=".wav")
    assert len(files) == 2
    before = {file: lake.fs.modified(file) for file in files}
    assert build(tmp_path / "saved", lake) == first
    assert {file: lake.fs.modified(file) for file in lake.list_files("audio", "hf", suffix=".wav")} == before


def test_a_folder_of_parquet_files_with_one_split(tmp_path, lake):
    (tmp_path / "calls" / "data").mkdir(parents=True)
    sounds = [{"bytes": None, "path": str(tmp_path / f"{name}.wav")} for name in "ab"]
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(wav(0.4))
    made = dataset(sounds, text=["hello", "bye"], speaker=["ann", "bob"])
    made.to_parquet(str(tmp_path / "calls" / "data" / "train-00000-of-00001.parquet"))
    rows = build(tmp_path / "calls", lake)
    # Sound that has its own file keeps its address.
    assert [row["audio_uri"] for row in rows] == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    assert [row["transcript"] for row in rows] == ["hello", "bye"]
    # One split only: whole speakers are dealt out.
    assert {row["split"] for row in rows} == {"train", "test"}
    assert lake.list_files("audio", "hf", suffix="") == []


def test_a_column_of_the_dataset_decides_on_splits_and_columns_are_mapped(tmp_path, lake):
    part = dataset(clips(0.5, 0.5), partition=["train", "test"], who=["a", "b"], said=["x", "y"])
    datasets.DatasetDict(
        {"one": part, "two": dataset(clips(0.6), partition=["dev"], who=["c"], said=["z"])}
    ).save_to_disk(str(tmp_path / "saved"))
    rows = build(tmp_path / "saved", lake, columns={"speaker_id": "who", "transcript": "said"})
    assert [(row["split"], row["speaker_id"], row["transcript"]) for row in rows] == [
        ("train", "a", "x"),
        ("test", "b", "y"),
        ("dev", "c", "z"),
    ]


def test_mistakes_are_named(tmp_path, lake):
    with pytest.raises(InputError, match=r"huggingface\.path", check=of_kind("not_configured")):
        build(None, lake)
    with pytest.raises(InputError, match="nowhere", check=of_kind("dataset_not_loaded")):
        build(tmp_path / "nowhere", lake)
    (tmp_path / "gone").mkdir()
    pq.write_table(pa.table({"audio": [{"bytes": None, "path": "gone.wav"}]}), tmp_path / "gone" / "train.parquet")
    with pytest.raises(InputError, match=r"split train, row 0: .*'gone\.wav'", check=of_kind("missing_audio")):
        build(tmp_path / "gone", lake)
    dataset(clips(0.5), valence=["often"]).save_to_disk(str(tmp_path / "words"))
    with pytest.raises(InputError, match=r"split train, row 0: .*'valence'.*'often'", check=of_kind("bad_cell")):
        build(tmp_path / "words", lake)
    with pytest.raises(InputError, match=r"splits: .*'test'.*train", check=of_kind("unknown_split")):
        build(tmp_path / "words", lake, splits=["test"])


def test_without_the_package_the_extra_is_named(tmp_path, lake, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"emoray\[datasets\]"):
        build(tmp_path, lake)
