"""Compaction beside readers and writers, and killed in its middle: no row is ever lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from emoray.lake.compaction import Compaction, compact_stage, sweep
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import stage_schema

SCHEMA = stage_schema(pa.struct([("text", pa.string())]))
TABLE = ("semantics", "f")


def value(name: str, text: str) -> dict[str, object]:
    return {"utterance_id": name, "value": {"text": text}, "error": None, "elapsed_s": 0.1}


def failure(name: str) -> dict[str, object]:
    return {"utterance_id": name, "value": None, "error": {"type": "t", "message": "m", "attempts": 1}}


def seen(lake: Lake):
    return lake.stage_outcomes(*TABLE).sort("utterance_id").collect()


def disk(root: object) -> Lake:
    return Lake(LakeConfig(root=str(root), storage_options={}))


@pytest.fixture(params=["disk", "s3"])
def lake(request, tmp_path):
    if request.param == "disk":
        yield disk(tmp_path)
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "test", "secret": "test"}
    lake = Lake(LakeConfig(root=f"s3://compaction/{tmp_path.name}", storage_options=options))
    with contextlib.suppress(FileExistsError):
        lake.fs.mkdir("compaction")
    yield lake
    server.stop()


def test_few_files_with_one_row_per_id_and_the_replaced_ones_go_later(lake):
    for rows in ([failure("a"), value("b", "x")], [value("a", "y")], [value("c", "z"), failure("b"), failure("d")]):
        lake.append_stage(*TABLE, pa.Table.from_pylist(rows, SCHEMA))
    before = seen(lake)
    assert compact_stage(lake, *TABLE, grace_s=1000) == Compaction(3, 1, 2, removed=0, waiting=3)
    assert seen(lake).equals(before)
    assert lake.dataset("annotations", *TABLE).count_rows() == 4
    assert compact_stage(lake, *TABLE, grace_s=1000) == Compaction(0, 0, 0, removed=0, waiting=3)
    # What came meanwhile is merged with the merged; -1: a file of this second counts as old enough.
    lake.append_stage(*TABLE, pa.Table.from_pylist([value("d", "w")], SCHEMA))
    assert compact_stage(lake, *TABLE, grace_s=-1) == Compaction(2, 1, 1, removed=5, waiting=0)
    (last,) = lake.list_files("annotations", *TABLE)
    with lake.fs.open(last) as file:
        assert sorted(pq.read_table(file)["utterance_id"].to_pylist()) == ["a", "b", "c", "d"]
    assert {row["utterance_id"]: row["value"] for row in seen(lake).to_dicts()}["d"] == {"text": "w"}


COMPACT = """
import sys
from emoray.lake.compaction import compact_stage
from emoray.lake.tables import Lake, LakeConfig
lake = Lake(LakeConfig(root=sys.argv[1], storage_options={}))
print("ready", flush=True)
while True:
    compact_stage(lake, "semantics", "f", grace_s=0.5)
    print("again", flush=True)
"""


def test_killed_again_and_again_beside_a_writer_and_a_reader(tmp_path):
    """The time of grace is longer than a read, as it is meant to be; else it is as short as can be."""
    lake, draw, expected = disk(tmp_path), random.Random(0), set()
    lake.append_stage(*TABLE, pa.Table.from_pylist([value("first", "x")], SCHEMA))
    expected.add("first")
    faults, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            known = set(expected)
            try:
                lost = known - set(disk(tmp_path).stage_outcomes(*TABLE).collect()["utterance_id"])
            except Exception as error:
                faults.append(error)
            else:
                faults.extend(lost)

    def write() -> None:
        number = 0
        while not stop.is_set():
            names = [f"{number}-{place}" for place in range(20)]
            lake.append_stage(*TABLE, pa.Table.from_pylist([value(name, name) for name in names], SCHEMA))
            expected.update(names)
            number += 1
            stop.wait(0.01)

    threads = [threading.Thread(target=act) for act in (read, write)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            command = [sys.executable, "-c", COMPACT, str(tmp_path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                for _ in range(1 + draw.randrange(4)):
                    assert child.stdout.readline(), "compaction failed"
                child.send_signal(signal.SIGKILL)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults
    compact_stage(lake, *TABLE, grace_s=-1)
    found = [row["utterance_id"] for row in seen(lake).to_dicts()]
    assert sorted(found) == sorted(expected)
    (last,) = lake.list_files("annotations", *TABLE)
    assert pq.read_table(last).num_rows == len(expected)


def test_a_kill_before_the_last_file_leaves_all_there_is(tmp_path, monkeypatch):
    """Of a large table several files come about; until the last is written nothing counts as replaced."""
    monkeypatch.setattr("emoray.lake.compaction.FILE_BYTES", 1)
    lake = disk(tmp_path)
    for name in "abc":
        lake.append_stage(*TABLE, pa.Table.from_pylist([value(name, name)], SCHEMA))
    writes, whole = [], lake.write_parquet

    def write_twice_then_die(*arguments: object) -> str:
        if len(writes) == 2:
            raise KeyboardInterrupt
        writes.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(lake, "write_parquet", write_twice_then_die)
    with pytest.raises(KeyboardInterrupt):
        compact_stage(lake, *TABLE, grace_s=-1)
    monkeypatch.undo()
    assert len(lake.list_files("annotations", *TABLE)) == 5
    assert lake.dataset("annotations", *TABLE).count_rows() == 5
    assert seen(lake)["utterance_id"].to_list() == ["a", "b", "c"]
    assert compact_stage(lake, *TABLE, grace_s=-1) == Compaction(5, 1, 2, removed=5, waiting=0)
    assert seen(lake)["utterance_id"].to_list() == ["a", "b", "c"]


def test_leftovers_of_killed_runs_are_swept_once_they_are_old(lake):
    lake.write_bytes(b"x", "work", "annotate-1", "part-0.parquet")
    unfinished = os.path.join(lake.path("annotations", "semantics", "f"), ".part-1.parquet.abc.tmp")
    if lake.is_local:
        os.makedirs(os.path.dirname(unfinished))
        open(unfinished, "wb").close()
    assert sweep(lake, 3600) == 0
    assert sweep(lake, -3600) == (2 if lake.is_local else 1)
    assert not lake.exists("work", "annotate-1", "part-0.parquet")
    assert not os.path.exists(unfinished)
