"""The lake on a disk and on an S3 API: whole files, one row per id, nothing half-written."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator

import boto3
import pyarrow as pa
import pytest
from error_kit import of_kind
from lake_kit import done_ids
from moto.server import ThreadedMotoServer

from emoray.errors import LakeError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import empty_row, stage_schema, utterances_table

VALUE = pa.struct([("text", pa.string()), ("vector", pa.list_(pa.float32()))])
SCHEMA = stage_schema(VALUE)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="tables")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["disk", "s3"])
def lake(request, tmp_path, endpoint) -> Lake:
    if request.param == "disk":
        return Lake(LakeConfig(root=str(tmp_path), storage_options={}))
    options = {"endpoint_url": endpoint, "key": "test", "secret": "test"}
    return Lake(LakeConfig(root=f"s3://tables/{tmp_path.name}", storage_options=options))


def value(name: str, text: str) -> dict[str, object]:
    return {"utterance_id": name, "value": {"text": text, "vector": [1.0, 2.0]}, "error": None, "elapsed_s": 0.1}


def failure(name: str) -> dict[str, object]:
    return {"utterance_id": name, "value": None, "error": {"type": "t", "message": "m", "attempts": 1}}


def test_a_value_wins_over_an_error_and_each_id_comes_once(lake):
    assert lake.stage_outcomes("semantics", "f") is None
    lake.append_stage("semantics", "f", pa.Table.from_pylist([failure("a"), value("b", "first")], SCHEMA))
    lake.append_stage("semantics", "f", pa.Table.from_pylist([value("a", "later"), value("b", "again")], SCHEMA))
    rows = {row["utterance_id"]: row for row in lake.stage_outcomes("semantics", "f").collect().to_dicts()}
    assert rows.keys() == {"a", "b"}
    assert rows["a"]["value"]["text"] == "later"
    assert done_ids(lake, "semantics", "f") == {"a", "b"}


def test_failed_rows_are_done_only_if_asked_so(lake):
    lake.append_stage("semantics", "f", pa.Table.from_pylist([failure("a"), value("b", "x")], SCHEMA))
    assert done_ids(lake, "semantics", "f") == {"a", "b"}
    assert done_ids(lake, "semantics", "f", with_failed=False) == {"b"}


def test_it_works_the_same_in_another_process(lake):
    lake.write_json({"a": 1}, "norms", "x.json")
    assert pickle.loads(pickle.dumps(lake)).read_json("norms", "x.json") == {"a": 1}


def test_a_missing_file_is_named(lake):
    with pytest.raises(LakeError, match=r"norms/none\.json", check=of_kind("missing_file")):
        lake.read_json("norms", "none.json")
    with pytest.raises(LakeError, match="'calls'", check=of_kind("missing_corpus")):
        lake.utterances("calls")


def test_scratch_is_gone_whatever_happens(lake):
    folders = []

    def fail_inside() -> None:
        with lake.scratch("join") as folder:
            lake.write_bytes(b"x", folder, "part.bin")
            assert lake.exists(folder, "part.bin")
            folders.append(folder)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert not lake.exists(folders[0], "part.bin")


def table_of(*ids: str) -> pa.Table:
    return utterances_table(
        [empty_row() | {"utterance_id": name, "corpus": "calls", "audio_uri": f"{name}.wav"} for name in ids]
    )


def test_a_corpus_is_replaced_whole_or_not_at_all(lake):
    lake.write_utterances("calls", table_of("a", "b", "c"), rows_per_file=2)
    before = lake.list_files("utterances", "calls")
    lake.write_utterances("calls", table_of("d", "e", "f"), rows_per_file=2)
    assert lake.utterances("calls")["utterance_id"].to_pylist() == ["d", "e", "f"]
    after = lake.list_files("utterances", "calls")
    assert len(after) == 2
    assert not set(before) & set(after)
    # As a kill leaves it: the first of two files of a new version is there, and the old version still.
    lake.fs.copy(after[0], after[0].replace("part-0", "part-9"))
    assert lake.utterances("calls")["utterance_id"].to_pylist() == ["d", "e", "f"]


def test_a_name_with_a_dot_is_a_corpus_and_a_file_is_none(lake):
    lake.write_utterances("calls.v2", table_of("a"))
    lake.write_json({}, "utterances", "notes")
    assert lake.corpora() == ["calls.v2"]
    lake.write_bytes(b"", "utterances", ".hidden", "file")
    assert lake.corpora() == ["calls.v2"]


def test_a_damaged_file_is_named_with_what_to_do(lake):
    lake.append_stage("semantics", "f", pa.Table.from_pylist([value("a", "x")], SCHEMA))
    lake.write_bytes(b"PAR1 half of", "annotations", "semantics", "f", "part-zzz.parquet")
    with pytest.raises(LakeError, match=r"part-zzz\.parquet", check=of_kind("damaged_file")):
        done_ids(lake, "semantics", "f")


def test_what_will_not_pass_is_said_with_what_to_do(endpoint):
    keys = {"endpoint_url": endpoint, "key": "test", "secret": "test"}
    lake = Lake(LakeConfig(root="s3://no-such-bucket/lake", storage_options=keys))
    for act in (
        lambda: lake.utterances("calls"),
        lambda: lake.write_bytes(b"x", "norms", "x.json"),
        lambda: lake.read_bytes("norms", "x.json"),
        lambda: done_ids(lake, "semantics", "f"),
    ):
        with pytest.raises(LakeError, check=of_kind("missing_bucket")):
            act()


def test_two_writers_of_one_name_leave_one_whole_file(tmp_path):
    lake = Lake(LakeConfig(root=str(tmp_path), storage_options={}))
    contents = [bytes([letter]) * 200_000 for letter in b"abcdefgh"]
    threads = [threading.Thread(target=lake.write_bytes, args=(content, "norms", "one.json")) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lake.read_bytes("norms", "one.json") in contents
    assert os.listdir(tmp_path / "norms") == ["one.json"]


def test_a_place_that_cannot_be_written_leaves_nothing_and_says_what_to_do(tmp_path):
    lake = Lake(LakeConfig(root=str(tmp_path), storage_options={}))
    (tmp_path / "norms").write_text("a file where a folder should be")
    with pytest.raises(LakeError, match=r"norms/x\.json", check=of_kind("storage_failed")):
        lake.write_bytes(b"x", "norms", "x.json")
    assert os.listdir(tmp_path) == ["norms"]
