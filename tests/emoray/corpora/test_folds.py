"""Folds as data: leave one out, and which corpora have them."""

from __future__ import annotations

import fsspec
import pytest
from corpus_trees import iemocap_sessions, podcast_release, write_iemocap, write_msp_podcast
from error_kit import of_kind

from emoray import corpora
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig, folds
from emoray.errors import InputError, LakeError, SchemaError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import empty_row, utterances_table

LAPTOP = read_preset("laptop")["corpus"]


@pytest.fixture
def lake(tmp_path):
    return Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))


def build(lake, kind, path):
    tree = {**LAPTOP, "name": "c", "kind": kind, kind: {**LAPTOP[kind], "path": str(path)}}
    return corpora.build(validate(CorpusConfig, tree), lake, lambda done, total: None)


def row(name, speaker, fold):
    given = {"utterance_id": name, "corpus": "c", "audio_uri": "a.wav", "speaker_id": speaker, "fold": fold}
    return empty_row() | given


def test_each_part_is_tested_once_and_the_next_one_validates():
    found = folds.leave_one_out([9, 3, 8, 3])
    assert [(fold.test, fold.dev, fold.train) for fold in found] == [(3, 8, (9,)), (8, 9, (3,)), (9, 3, (8,))]
    with pytest.raises(InputError, match=r"\b3\b.*\b2\b", check=of_kind("too_few_parts")):
        folds.leave_one_out([1, 2])


def test_a_speaker_in_two_parts_is_refused():
    apart = utterances_table([row("a", "s", 0), row("b", "t", 1), row("c", "u", 2), row("d", "v", None)])
    fold = folds.leave_one_out([0, 1, 2])[0]
    assert folds.assign(apart, fold)["split"].to_pylist() == ["test", "dev", "train", None]
    shared = utterances_table([row("a", "s", 0), row("b", "t", 1), row("c", "s", 2)])
    with pytest.raises(SchemaError, match="'s'", check=of_kind("speaker_in_two_splits")):
        folds.assign(shared, fold)


def test_a_manifests_own_folds_are_left_alone_and_take_away_an_older_fold_file(tmp_path, lake):
    build(lake, "iemocap", write_iemocap(tmp_path, iemocap_sessions()))
    assert len(folds.read(lake, "c")) == 5
    manifest = tmp_path / "m.csv"
    # One speaker in every fold: its owner's business.
    manifest.write_text("audio,speaker,fold,split\n" + "".join(f"{n}.wav,s,{n},train\n" for n in range(4)))
    build(lake, "manifest", manifest)
    with pytest.raises(LakeError, match="'c'", check=of_kind("missing_folds")):
        folds.read(lake, "c")


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("iemocap", lambda folder: write_iemocap(folder, iemocap_sessions(3))),
        ("msp_podcast", lambda folder: write_msp_podcast(folder, podcast_release())),
    ],
)
def test_a_tree_on_a_remote_store_is_read_as_one_on_a_disk(tmp_path, lake, kind, write):
    folder = write(tmp_path)
    remote = fsspec.filesystem("memory")
    remote.put(str(folder), f"/{kind}/{folder.name}", recursive=True)
    try:
        here = build(lake, kind, folder).to_pylist()
        there = build(lake, kind, f"memory://{kind}/{folder.name}").to_pylist()
    finally:
        remote.rm(f"/{kind}", recursive=True)
    for one, other in zip(here, there, strict=True):
        assert other.pop("audio_uri") == one.pop("audio_uri").replace(str(tmp_path), f"memory://{kind}")
        assert one == other


def test_speakers_can_be_left_out_of_any_corpus_alone_or_in_groups():
    rows = [
        empty_row() | {"utterance_id": f"u{number}", "corpus": "c", "audio_uri": "a", "speaker_id": speaker}
        for number, speaker in enumerate(["ann", "bob", "cid", "dee", "ann", "Unknown", None])
    ]
    table = utterances_table(rows)
    alone = folds.leave_speakers_out(table, None)
    tested = [
        {row["speaker_id"] for row in folds.assign(table, fold).to_pylist() if row["split"] == "test"} for fold in alone
    ]
    assert sorted(map(sorted, tested)) == [["ann"], ["bob"], ["cid"], ["dee"]]
    for fold in folds.leave_speakers_out(table, 3):
        parts = {row["utterance_id"]: row["split"] for row in folds.assign(table, fold).to_pylist()}
        assert set(parts.values()) == {"train", "dev", "test", None}
        assert parts["u0"] == parts["u4"]
        assert parts["u5"] is parts["u6"] is None
        shuffled = table.take(list(reversed(range(len(rows)))))
        assert {row["utterance_id"]: row["split"] for row in folds.assign(shuffled, fold).to_pylist()} == parts
    with pytest.raises(InputError, check=of_kind("too_few_parts")):
        folds.leave_speakers_out(table, 5)


@pytest.mark.parametrize(("second", "number"), [("b", 3), ("a", 0)])
def test_a_manifests_column_fold_is_honoured_unless_it_parts_a_speaker(lake, tmp_path, caplog, second, number):
    lines = ["audio_uri,speaker_id,fold,emotion"]
    lines += [f"{tmp_path}/{n}.wav,{speaker},{n},joy" for n, speaker in enumerate(["a", second, "c"])]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    build(lake, "manifest", tmp_path / "list.csv")
    assert folds.known(lake, "c") == bool(number)
    if number:
        assert [fold.test for fold in folds.read(lake, "c")] == [0, 1, 2]
    else:
        assert "fold is no use" in caplog.text
