"""Submissions: the column order above all, read again by pandas, polars and the manifest."""

from __future__ import annotations

import pandas as pd
import polars as pl
import pytest
from error_kit import of_kind
from interchange_kit import corpus, failed, labels_of, score, scores, utterance

from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig
from emoray.corpora.manifest import read as manifest
from emoray.errors import InputError
from emoray.interchange import msp_submission
from emoray.schema import DIMENSIONS, utterances_table


def written(tmp_path, table):
    found, tally = labels_of(table)
    path = tmp_path / "submission.csv"
    msp_submission.write(str(path), found, tally)
    return path, tally


def test_activation_comes_before_valence(tmp_path):
    path, tally = written(
        tmp_path, scores(score("MSP-PODCAST_0001_0008", (2.2, 4.0, 2.6)), failed("MSP-PODCAST_0001_0009"))
    )
    assert path.read_bytes() == b"FileName,EmoAct,EmoVal,EmoDom\nMSP-PODCAST_0001_0008.wav,4.0,2.2,2.6\n"
    assert (tally.rows, tally.written, dict(tally.left_out)) == (2, 1, {"not scored: missing_file": 1})
    assert tally.notes == []


def test_pandas_polars_and_the_manifest_read_the_same(tmp_path):
    third = (1 + 2 / 3, 6.999999999999999, 1e-7 + 1)
    path, tally = written(
        tmp_path, utterances_table([utterance("a"), utterance("b", third), utterance("c", (5.5, None, 1.3))])
    )
    assert dict(tally.left_out) == {"no arousal": 1}
    frame = pd.read_csv(path, float_precision="round_trip")
    assert frame["FileName"].tolist() == ["a.wav", "b.wav"]
    assert frame[["EmoVal", "EmoAct", "EmoDom"]].to_numpy().tolist() == [[2.2, 4.0, 2.6], list(third)]
    assert pl.read_csv(path)["EmoDom"].to_list() == [2.6, third[2]]
    tree = read_preset("laptop")["corpus"]
    options = {**tree["manifest"], "path": str(path), "scale_min": 1, "scale_max": 7}
    config = validate(CorpusConfig, {**tree, "name": "again", "kind": "manifest", "manifest": options})
    table = manifest.read("again", config.manifest).to_pylist()
    assert [[row[f"{name}_raw"] for name in DIMENSIONS] for row in table] == [[2.2, 4.0, 2.6], list(third)]


def test_another_scale_is_noted_and_two_are_refused(tmp_path):
    other = {"scale": [1.0, 5.0]}
    _, tally = written(tmp_path, scores(score("a", **other)))
    assert tally.notes == ["The values are on 1..5; MSP-Podcast's scale is 1..7"]
    with pytest.raises(InputError, match=r"utterance b: .*1\.\.5 and 1\.\.7", check=of_kind("several_scales")):
        written(tmp_path, scores(score("a", **other), score("b")))


def test_values_without_a_scale_are_left_out(tmp_path):
    _, tally = written(tmp_path, scores(score("a", scale=None)))
    assert (tally.written, dict(tally.left_out)) == (0, {"no scale": 1})


def test_two_clips_of_one_file_are_refused(tmp_path):
    rows = [utterance("a", audio_uri="/x/call.wav", end_s=1.0), utterance("b", audio_uri="/y/call.wav", start_s=1.0)]
    with pytest.raises(InputError, match=r"call\.wav: a and b", check=of_kind("duplicate_file")):
        written(tmp_path, utterances_table(rows))


def test_a_corpus_without_one_dimension_keeps_the_rest(tmp_path):
    path, tally = written(tmp_path, corpus())
    assert dict(tally.left_out) == {"no label": 1, "no arousal": 1}
    assert path.read_text().splitlines()[2] == "ü 1#2%.wav,7.0,1.0,3.1"
