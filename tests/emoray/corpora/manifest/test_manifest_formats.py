"""Manifests that other tools write: cuts of lhotse (written by lhotse itself), EmoBox's folds, EMO-SUPERB's csv."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import lhotse
import numpy as np
import pytest
import soundfile
from error_kit import of_kind
from lhotse.supervision import AlignmentItem

from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig
from emoray.corpora.manifest import read as manifest
from emoray.errors import InputError

LAPTOP = read_preset("laptop")["corpus"]


def read(path, **changes):
    options = {**LAPTOP["manifest"], "path": str(path), **changes}
    config = validate(CorpusConfig, {**LAPTOP, "name": "mine", "kind": "manifest", "manifest": options})
    return {row["utterance_id"]: row for row in manifest.read("mine", config.manifest).to_pylist()}


@pytest.fixture
def recording(tmp_path):
    soundfile.write(tmp_path / "call.wav", np.zeros(4 * 16_000), 16_000)
    return lhotse.Recording.from_file(tmp_path / "call.wav")


def said(name, start, duration, *words, **more):
    times = [AlignmentItem(word, at, 0.25) for word, at in words]
    return lhotse.SupervisionSegment(
        name, "call", start, duration, text=" ".join(word for word, _ in words), alignment={"word": times}, **more
    )


def cut_of(recording, *supervisions):
    return lhotse.MonoCut("cut", 0, recording.duration, 0, supervisions=list(supervisions), recording=recording)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_a_cut_of_a_whole_recording(tmp_path, recording, ending):
    labels = {"EmoAct": 2.0, "EmoVal": 5.0, "EmoDom": 3.0, "emotion": "anger", "split": "test"}
    cut = cut_of(
        recording, said("s", 0.0, 4.0, ("hi", 1.0), speaker="bob", gender="male", language="en", custom=labels)
    )
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / f"cuts{ending}")
    (row,) = read(tmp_path / f"cuts{ending}", scale_min=1, scale_max=5).values()
    assert (row["utterance_id"], row["audio_uri"]) == ("cut", str(tmp_path / "call.wav"))
    assert (row["start_s"], row["end_s"], row["duration_s"]) == (None, None, 4.0)
    assert (row["speaker_id"], row["gender"], row["language"], row["split"]) == ("bob", "male", "en", "test")
    assert [row[name] for name in ("valence", "arousal", "dominance")] == [1.0, 0.25, 0.5]
    assert (row["emotion"], row["transcript"]) == ("anger", "hi")
    assert row["words"] == [{"word": "hi", "start_s": 1.0, "end_s": 1.25, "emphasised": None}]


def test_a_span_has_its_own_clock(tmp_path, recording):
    whole = cut_of(recording, said("s", 1.0, 1.5, ("hi", 1.25), ("there", 2.0)))
    span = whole.truncate(offset=0.5, duration=1.5)  # 0.5 to 2.0 s: "there" was cut off
    lhotse.CutSet.from_cuts([span]).to_file(tmp_path / "cuts.jsonl")
    (row,) = read(tmp_path / "cuts.jsonl").values()
    assert (row["start_s"], row["end_s"], row["duration_s"]) == (0.5, 2.0, 1.5)
    assert [(word["word"], word["start_s"]) for word in row["words"]] == [("hi", 0.75)]


def test_each_of_several_supervisions_is_an_utterance(tmp_path, recording):
    cut = cut_of(recording, said("a", 0.5, 1.0, ("one", 0.75)), said("b", 2.0, 1.5, ("two", 2.5)))
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl")
    rows = read(tmp_path / "cuts.jsonl")
    assert {name: (row["start_s"], row["end_s"]) for name, row in rows.items()} == {"a": (0.5, 1.5), "b": (2.0, 3.5)}
    assert {name: row["words"][0]["start_s"] for name, row in rows.items()} == {"a": 0.25, "b": 0.5}
    # lhotse's own way of parting them comes to the same.
    lhotse.CutSet.from_cuts([cut]).trim_to_supervisions().to_file(tmp_path / "trimmed.jsonl")
    for name, row in read(tmp_path / "trimmed.jsonl").items():
        assert row == rows[name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cut: cut.pad(5.0), "MixedCut"),
        (lambda cut: cut.perturb_speed(1.1), "transforms"),
        (lambda cut: replace(cut, recording=None), "a cut without a recording"),
        (lambda cut: cut.move_to_memory(audio_format="wav"), "sources: memory"),
    ],
)
def test_a_cut_that_is_no_span_of_a_file_is_refused_by_line(tmp_path, recording, change, reason):
    cut = cut_of(recording, said("s", 0.0, 4.0, ("hi", 1.0)))
    lines = [json.dumps(one.to_dict(), default=str) for one in (cut, change(cut.with_id("other")))]
    (tmp_path / "cuts.jsonl").write_text("\n".join(lines))
    with pytest.raises(
        InputError, match=rf"cuts\.jsonl, line 2: .*{reason}.*save_audios", check=of_kind("unsupported_cut")
    ):
        read(tmp_path / "cuts.jsonl")


def test_one_channel_of_two_is_refused(tmp_path):
    soundfile.write(tmp_path / "stereo.wav", np.zeros((16_000, 2)), 16_000)
    cut = lhotse.Recording.from_file(tmp_path / "stereo.wav").to_cut()
    (mono, _) = cut.to_mono()
    lhotse.CutSet.from_cuts([mono]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(InputError, match="2 channels", check=of_kind("unsupported_cut")):
        read(tmp_path / "cuts.jsonl")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"type": "MonoCut", "recording": {"sources": 3}}', "damaged_file"),
        ('{"type": "MonoCut", "tracks": 1}', "unsupported_cut"),
    ],
)
def test_a_damaged_cut_is_refused_by_line(tmp_path, line, kind):
    (tmp_path / "cuts.jsonl").write_text(line)
    with pytest.raises(InputError, match=r"cuts\.jsonl, line 1", check=of_kind(kind)):
        read(tmp_path / "cuts.jsonl")


def test_a_damaged_gzip_file(tmp_path):
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(b'{"audio": "a.wav"}\n' * 99)[:-9])
    with pytest.raises(InputError, match=r"m\.jsonl\.gz", check=of_kind("damaged_file")):
        read(tmp_path / "m.jsonl.gz")


def emobox(name, emotion):
    return json.dumps(
        {"key": f"iemocap-{name}", "dataset": "iemocap", "wav": f"downloads/iemocap/{name}.wav", "type": "raw",
         "sample_rate": 16000, "num_frame": 70312.0, "task": "category", "length": 4.3945, "emo": emotion, "channel": 1}
    )  # fmt: skip


def test_a_fold_of_emobox(tmp_path):
    fold = tmp_path / "data" / "iemocap" / "fold_2"
    fold.mkdir(parents=True)
    (fold / "iemocap_train_fold_2.jsonl").write_text(emobox("a", "ang") + "\n" + emobox("b", "neu") + "\n")
    (fold / "iemocap_test_fold_2.jsonl").write_text(emobox("c", "sad") + "\n")
    rows = read(fold, audio_folder=str(tmp_path))
    assert {name: (row["split"], row["fold"], row["emotion"]) for name, row in rows.items()} == {
        "iemocap-a": ("train", 1, "ang"),
        "iemocap-b": ("train", 1, "neu"),
        "iemocap-c": ("test", 1, "sad"),
    }
    row = rows["iemocap-c"]
    assert (row["audio_uri"], row["duration_s"]) == (str(tmp_path / "downloads" / "iemocap" / "c.wav"), 4.3945)
    # One of its files is a manifest, too.
    assert set(read(fold / "iemocap_test_fold_2.jsonl")) == {"iemocap-c"}


def test_a_csv_of_emo_superb(tmp_path):
    header = "FileName,angry,sad,neutral,happy,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    lines = [
        "MSP-IMPROV-S01A-F02-R-FF01.wav,0.576667,0.016667,0.39,0.0,2.666667,2.333333,3.0,02,Female,Train",
        "MSP-IMPROV-S01A-M02-R-MM01.wav,0.483333,0.016667,0.483333,0.016667,,2.625,3.125,03,Male,Development",
    ]
    (tmp_path / "labels_consensus_1.csv").write_text("\n".join([header, *lines]))
    rows = read(tmp_path / "labels_consensus_1.csv", scale_min=1, scale_max=5, audio_folder="/audio")
    first, second = rows.values()
    assert first["audio_uri"] == "/audio/MSP-IMPROV-S01A-F02-R-FF01.wav"
    assert first["emotion_votes"] == [
        {"emotion": "angry", "votes": 0.576667},
        {"emotion": "sad", "votes": 0.016667},
        {"emotion": "neutral", "votes": 0.39},
    ]
    assert [first[f"{name}_raw"] for name in ("valence", "arousal", "dominance")] == [2.333333, 2.666667, 3.0]
    assert (first["emotion"], first["split"]) == ("angry", "train")
    # Two classes share the first place: no class.
    assert (second["emotion"], second["arousal"], second["split"]) == (None, None, "dev")


def test_vote_columns_by_name(tmp_path):
    (tmp_path / "m.csv").write_text("audio,joy,anger,emotion\na.wav,3,1,\nb.wav,0,2,calm\n")
    first, second = read(tmp_path / "m.csv", vote_columns=["joy", "anger"]).values()
    assert (first["emotion"], second["emotion"]) == ("joy", "calm")
    assert second["emotion_votes"] == [{"emotion": "anger", "votes": 2.0}]
    with pytest.raises(InputError, match=r"vote_columns: .*'angr'.*'anger'", check=of_kind("missing_column")):
        read(tmp_path / "m.csv", vote_columns=["angr"])
    (tmp_path / "n.csv").write_text("audio,joy\na.wav,often\n")
    with pytest.raises(InputError, match=r"line 2: .*'joy'.*'often'", check=of_kind("bad_cell")):
        read(tmp_path / "n.csv", vote_columns=["joy"])
