"""The sink: whole files, by rows and by time, and nothing lost when a write fails."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from lake_kit import done_ids

from emoray.errors import LakeError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import stage_schema
from emoray_jobs.pipeline.writer import OutcomeWriter

TABLE = ("stage", "0123456789abcdef")
OTHER = ("other", "0123456789abcdef")
SCHEMA = stage_schema(pa.struct([("x", pa.int64())]))


def outcomes(*ids: str) -> pa.Table:
    rows = [{"utterance_id": name, "value": {"x": 1}, "error": None, "elapsed_s": 0.1} for name in ids]
    return pa.Table.from_pylist(rows, SCHEMA)


def files(lake: Lake) -> int:
    return len(lake.list_files("annotations", *TABLE))


def test_writes_a_file_when_enough_rows_came_together(tmp_path):
    config = LakeConfig(root=str(tmp_path), storage_options={})
    lake, sink = Lake(config), OutcomeWriter(config, flush_rows=3, flush_s=1000)
    sink.add({TABLE: outcomes("a", "b")}, "process", 10)
    assert files(lake) == 0
    sink.add({TABLE: outcomes("c")}, "process", 30)
    assert files(lake) == 1
    sink.add({TABLE: outcomes("d")}, "process", 20)
    report = sink.finish()
    assert (report.rows, report.files, report.peak_rss_bytes) == (4, 2, {"process": 30})
    assert done_ids(lake, *TABLE) == {"a", "b", "c", "d"}


def test_writes_a_file_when_a_row_has_waited_long_enough(tmp_path):
    config = LakeConfig(root=str(tmp_path), storage_options={})
    lake, sink = Lake(config), OutcomeWriter(config, flush_rows=1000, flush_s=0.05)
    sink.add({TABLE: outcomes("a")}, "process", 1)
    tick = threading.Event()
    for _ in range(500):
        if files(lake):
            break
        tick.wait(0.02)
    assert done_ids(lake, *TABLE) == {"a"}


def test_rows_stay_in_the_buffer_until_they_are_written(tmp_path):
    config = LakeConfig(root=str(tmp_path), storage_options={})
    lake, sink = Lake(config), OutcomeWriter(config, flush_rows=2, flush_s=1000)
    obstacle = tmp_path / "annotations"
    obstacle.write_text("in the way")
    with pytest.raises((LakeError, OSError)):
        sink.add({TABLE: outcomes("a", "b")}, "process", 1)
    obstacle.unlink()
    sink.finish()
    assert done_ids(lake, *TABLE) == {"a", "b"}


def test_while_a_write_fails_no_work_is_worth_doing(tmp_path):
    config = LakeConfig(root=str(tmp_path), storage_options={})
    lake, sink = Lake(config), OutcomeWriter(config, flush_rows=2, flush_s=1000)
    sink.raise_if_pointless()
    obstacle = tmp_path / "annotations"
    obstacle.write_text("in the way")
    with pytest.raises(LakeError, match="cannot write"):
        sink.add({TABLE: outcomes("a", "b"), OTHER: outcomes("a", "b")}, "process", 1)
    with pytest.raises(LakeError, match="cannot write"):
        sink.raise_if_pointless()
    report = sink.finish()
    assert report.unwritten == 4
    assert len(report.problems) == 2  # one for each table
    assert all("cannot write" in problem for problem in report.problems)
    obstacle.unlink()
    sink.raise_if_pointless()
    assert done_ids(lake, *TABLE) == {"a", "b"}
    report = sink.finish()
    assert (report.files, report.unwritten) == (2, 0)
