"""The worklist: anti-joins, joins that do not fit into memory, batches under caps."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoray.errors import LakeError
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import empty_row, stage_schema, utterances_table
from emoray.stages.decode import Decode
from emoray_jobs.pipeline import batches as batch_files
from emoray_jobs.pipeline import pending

MARK = "0123456789abcdef"
VALUE = pa.struct([("n", pa.int64()), ("series", pa.list_(pa.float32()))])


@pytest.fixture
def lake(tmp_path):
    return Lake(LakeConfig(root=str(tmp_path), storage_options={}))


def write(lake: Lake, stage: str, values: dict[str, int | None]) -> None:
    rows = [
        {
            "utterance_id": name,
            "value": None if number is None else {"n": number, "series": [float(number)] * number},
            "error": {"type": "broken", "message": "it broke", "attempts": 1} if number is None else None,
            "elapsed_s": 0.5,
        }
        for name, number in values.items()
    ]
    lake.append_stage(stage, MARK, pa.Table.from_pylist(rows, stage_schema(VALUE)))


def utterances(count: int) -> pa.Table:
    row = empty_row() | {"corpus": "c", "audio_uri": "a.wav"}
    return utterances_table([row | {"utterance_id": f"u{number:02d}"} for number in range(count)])


def test_answers_prefer_a_value_to_an_error(lake):
    write(lake, "stage", {"a": None, "b": None})
    write(lake, "stage", {"a": 1})
    write(lake, "stage", {"b": None, "d": None, "stranger": 7})
    write(lake, "stage", {"d": 4})
    found = pending.outcome_status(lake, "stage", MARK, pl.Series(["a", "b", "c", "d"]))
    assert found["answered"].to_list() == [True, True, False, True]
    assert found["failed"].to_list() == [None, "broken", None, None]
    assert found["elapsed_s"].to_list() == [0.5, 0.5, 0.0, 0.5]
    assert pending.errors(lake, "stage", MARK) == {"b": {"type": "broken", "message": "it broke", "attempts": 1}}


def test_forgetting_failures_keeps_values(lake):
    write(lake, "stage", {"a": None, "b": 2})
    write(lake, "stage", {"c": None})
    write(lake, "stage", {"d": 4})
    assert pending.forget_failures(lake, "stage", MARK) == 2
    found = pending.outcome_status(lake, "stage", MARK, pl.Series(["a", "b", "c", "d"]))
    assert found["answered"].to_list() == [False, True, False, True]
    assert pending.forget_failures(lake, "stage", MARK) == 0


@pytest.mark.parametrize(("part_rows", "sizes"), [(3, [3, 3, 3]), (1, [5, 4]), (100, [9])])
def test_join_is_the_same_in_one_part_and_in_many(lake, monkeypatch, part_rows, sizes):
    monkeypatch.setattr(batch_files, "PART_ROWS", part_rows)
    monkeypatch.setattr(batch_files, "MAX_PARTS", 3 if part_rows == 3 else 2)
    write(lake, "one", {f"u{number:02d}": number for number in range(0, 10, 2)})
    write(lake, "one", {"u04": 4, "u09": None, "stranger": 5})  # a repeat, an error, another corpus's row
    write(lake, "two", {f"u{number:02d}": number + 1 for number in reversed(range(7))})
    table = utterances(10).take(pa.array(np.random.default_rng(0).permutation(10)))
    marks = {"one": MARK, "two": MARK, "absent": MARK}
    ids = pl.Series(table["utterance_id"]).filter(pl.Series(table["utterance_id"]) != "u08")
    parts = list(batch_files.join_stage_values(lake, pads.dataset(table), ids, marks, ["utterance_id", "audio_uri"]))
    assert parts[0].column_names == ["utterance_id", "audio_uri", *marks]
    assert [part.num_rows for part in parts] == sizes
    rows = [row for part in parts for row in part.to_pylist()]
    assert [row["utterance_id"] for row in rows] == [f"u{number:02d}" for number in (*range(8), 9)]
    for row in rows:
        number = int(row["utterance_id"][1:])
        one = {"n": number, "series": [float(number)] * number} if number % 2 == 0 else None
        two = {"n": number + 1, "series": [number + 1.0] * (number + 1)} if number < 7 else None
        assert (row["one"], row["two"], row["absent"]) == (one, two, None)


def test_a_corpus_that_is_replaced_meanwhile_is_no_trace(lake):
    lake.write_utterances("calls", utterances(4))
    before = lake.utterances_dataset("calls")
    lake.write_utterances("calls", utterances(5))
    with pytest.raises(LakeError, match="run the same command again"):
        list(batch_files.join_stage_values(lake, before, pl.Series(["u00"]), {}))


def test_outstanding_is_an_anti_join_per_stage(lake, monkeypatch):
    decode = Decode.__new__(Decode)
    write(lake, "decode", {"u00": 1, "u02": None})
    rows = pending.utterance_lengths(utterances(4))
    assert rows["seconds"].to_list() == [pending.UNKNOWN_DURATION_S] * 4
    work = pending.outstanding(lake, rows, [decode], {"decode": MARK})
    assert work.rows["utterance_id"].to_list() == ["u01", "u03"]  # an error is an answer too
    assert work.outcome_count == 2
    assert work.active_stages() == [decode]


@settings(max_examples=50, deadline=None)
@given(
    seconds=st.lists(st.floats(0.1, 60.0), min_size=1, max_size=60),
    max_rows=st.integers(1, 10),
    max_audio_s=st.floats(0.0, 120.0),
)
def test_batches_hold_every_row_once_under_both_caps(seconds, max_rows, max_audio_s):
    lengths = np.array(seconds)
    batches = batch_files._batches(lengths, max_rows, max_audio_s)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or (len(batch) <= max_rows and lengths[batch].sum() <= max_audio_s + 1e-6)


def test_written_batches_carry_rows_values_and_columns(lake, monkeypatch):
    monkeypatch.setattr(batch_files, "PART_ROWS", 4)
    write(lake, "one", {"u01": 1, "u05": 5})
    decode, one = Decode.__new__(Decode), Decode.__new__(Decode)
    one.name = "one"  # type: ignore[misc]
    lacks = {"decode": [True, False, True], "one": [True, True, False]}
    rows = pl.DataFrame({"utterance_id": ["u01", "u03", "u05"], "seconds": [2.0, 3.0, 1.0], **lacks})
    work = pending.PendingWork([decode, one], rows)
    table = pads.dataset(utterances(8))
    batches = batch_files.write_batches(lake, "scratch", work, table, {"one": MARK}, max_rows=2, max_audio_s=4.0)
    assert batches.column_names == batch_files.BATCHES.names
    found = [
        row
        for batch in batches.to_pylist()
        for row in batch_files.read_batch(lake, batch["path"], batch["row_group"]).to_pylist()
    ]
    assert {row["utterance_id"]: (row["one"] and row["one"]["n"], row[batch_files.LACKING]) for row in found} == {
        "u05": (5, ["decode"]),
        "u01": (1, ["decode", "one"]),
        "u03": (None, ["one"]),
    }
    assert pq.ParquetFile(lake.path("scratch", "part-00000.parquet")).num_row_groups == 2
