"""The row wrapper: a bad row is found and recorded, and no other row notices."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoray.errors import ConfigError, MissingExtraError, ServiceError, StageError, TransientError
from emoray.schema import stage_schema
from emoray.stages.base import Stage
from emoray.stages.guard import GuardConfig, run_isolating_rows

GUARD = GuardConfig(max_attempts=3, backoff_s=0.0)


class Doubling(Stage):
    """Doubles `number`; a row can carry what goes wrong with it."""

    name = "doubling"
    version = 1
    requires = ("number",)
    value_type = pa.struct([("number", pa.float64())])

    def __init__(self, memory_rows: int | None = None) -> None:
        self.memory_rows = memory_rows
        self.calls: list[list[str]] = []

    def options(self):
        return {}

    def run(self, rows):
        self.calls.append([row["utterance_id"] for row in rows])
        if self.memory_rows is not None and len(rows) > self.memory_rows:
            raise MemoryError("too many rows at once")
        for row in rows:
            if row.get("stumbles", 0) > 0:
                row["stumbles"] -= 1
                raise TransientError("storage is throttled")
            if "fails" in row:
                raise row["fails"]
        return [{"number": 2 * row["number"]} for row in rows]


def make_rows(count, **special):
    rows = [{"utterance_id": f"u{index}", "number": float(index)} for index in range(count)]
    for name, extra in special.items():
        rows[int(name[1:])].update(extra)
    return rows


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_exactly_the_bad_rows_fail(case):
    count, bad = case
    rows = make_rows(count, **{f"u{index}": {"fails": ValueError(f"row {index}")} for index in bad})
    outcomes = run_isolating_rows(Doubling(), rows, GUARD)
    assert [outcome.utterance_id for outcome in outcomes] == [row["utterance_id"] for row in rows]
    for index, (outcome, row) in enumerate(zip(outcomes, rows, strict=True)):
        if index in bad:
            assert outcome.value is None
            assert outcome.error == {"type": "ValueError", "message": f"row {index}", "attempts": 1}
            assert "doubling" not in row
        else:
            assert outcome.error is None
            assert outcome.value == row["doubling"] == {"number": 2.0 * index}


def test_finding_one_bad_row_takes_logarithmically_many_calls():
    stage = Doubling()
    run_isolating_rows(stage, make_rows(64, u13={"fails": ValueError("bad")}), GUARD)
    assert len(stage.calls) == 1 + 2 * 6


def test_errors_of_ours_keep_their_kind_and_say_what_to_do():
    error = StageError("no words", where="u1", remedy="Give some", kind="empty_transcript")
    outcomes = run_isolating_rows(Doubling(), make_rows(3, u1={"fails": error}), GUARD)
    assert outcomes[1].error == {"type": "empty_transcript", "message": "u1: no words. Give some", "attempts": 1}


def test_a_transient_failure_that_passes_leaves_no_trace():
    stage = Doubling()
    outcomes = run_isolating_rows(stage, make_rows(4, u2={"stumbles": 2}), GUARD)
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert len(stage.calls) == 3


def test_a_transient_failure_that_stays_is_recorded_for_its_row_alone():
    outcomes = run_isolating_rows(Doubling(), make_rows(4, u2={"stumbles": 1000}), GUARD)
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, True]
    assert outcomes[2].error == {"type": "transient", "message": "storage is throttled", "attempts": 3}


def test_memory_shortage_shrinks_the_batch():
    stage = Doubling(memory_rows=3)
    outcomes = run_isolating_rows(stage, make_rows(10), GUARD)
    assert all(outcome.error is None for outcome in outcomes)
    assert [len(call) for call in stage.calls] == [10, 5, 2, 3, 5, 2, 3]


def test_missing_input_is_recorded_without_running_the_stage():
    stage = Doubling()
    rows = make_rows(3, u0={"number": None})
    del rows[2]["number"]
    outcomes = run_isolating_rows(stage, rows, GUARD)
    assert [outcome.error and outcome.error["type"] for outcome in outcomes] == ["missing_input", None, "missing_input"]
    assert "number" in outcomes[0].error["message"]
    assert stage.calls == [["u1"]]


def test_a_stage_that_loses_rows_is_caught():
    class Losing(Doubling):
        def run(self, rows):
            return super().run(rows)[1:]

    outcomes = run_isolating_rows(Losing(), make_rows(2), GUARD)
    assert all(outcome.error["type"] == "stage_failed" for outcome in outcomes)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_stopping_is_not_a_failure_of_a_row(stop):
    with pytest.raises(stop):
        run_isolating_rows(Doubling(), make_rows(3, u1={"fails": stop()}), GUARD)


def test_outcomes_fit_the_stage_table():
    stage = Doubling()
    outcomes = run_isolating_rows(stage, make_rows(3, u1={"fails": ValueError("bad")}), GUARD)
    table = pa.Table.from_pylist([outcome.as_row() for outcome in outcomes], schema=stage_schema(stage.value_type))
    assert table["value"].to_pylist() == [{"number": 0.0}, None, {"number": 4.0}]
    assert run_isolating_rows(stage, [], GUARD) == []


def test_a_row_that_the_stage_itself_calls_bad_costs_no_other_row_a_second_run():
    class Knowing(Doubling):
        def run(self, rows):
            self.calls.append([row["utterance_id"] for row in rows])
            return [row.get("fails") or {"number": 2 * row["number"]} for row in rows]

    stage = Knowing()
    error = StageError("no record", kind="bad_record")
    outcomes = run_isolating_rows(stage, make_rows(8, u5={"fails": error}), GUARD)
    assert len(stage.calls) == 1
    assert outcomes[5].error == {"type": "bad_record", "message": "no record", "attempts": 1}
    assert [outcome.value for outcome in outcomes if outcome.error is None] == [
        {"number": 2.0 * index} for index in range(8) if index != 5
    ]


@pytest.mark.parametrize("kind", [ServiceError, ConfigError, MissingExtraError])
def test_what_no_row_is_to_blame_for_is_not_put_on_rows(kind):
    stage = Doubling()
    with pytest.raises(kind, match="away"):
        run_isolating_rows(stage, make_rows(8, u3={"fails": kind("the engine is away")}), GUARD)
    assert len(stage.calls) == 1
