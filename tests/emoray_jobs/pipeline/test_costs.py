"""Calibration: the line through measured batches, and what the lake remembers of it."""

from __future__ import annotations

import functools
import operator
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from annotate_kit import config_for
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_kit import speech

from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray.stages.base import WAVEFORM
from emoray.stages.prosody import MeasureProsody
from emoray_jobs.pipeline import costs
from emoray_jobs.pipeline.clocks import SharedClock
from emoray_jobs.pipeline.costs import CostSums, run_measured

batch = st.tuples(st.integers(1, 64), st.floats(0.1, 500), st.floats(0.001, 60))


def total(batches, *, first=False):
    works = [CostSums.of_batch(*one, first=first, peak_bytes=1) for one in batches]
    return functools.reduce(operator.add, works, CostSums())


@settings(deadline=None)
@given(
    st.floats(0, 2),
    st.floats(0, 2),
    st.lists(st.tuples(st.integers(1, 64), st.floats(1, 500)), min_size=2, max_size=30),
)
def test_the_line_is_found_again(per_row_s, per_audio_s, batches):
    works = [(rows, audio_s, per_row_s * rows + per_audio_s * audio_s) for rows, audio_s in batches]
    cost = total(works).cost()
    for rows, audio_s, work_s in works:
        lengths = {audio / number for number, audio, _ in works}
        if max(lengths) > 1.5 * min(lengths):
            assert cost.work_s(rows, audio_s) == pytest.approx(work_s, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(st.lists(batch, min_size=1, max_size=20), st.lists(batch, max_size=5))
def test_the_whole_costs_what_it_took_and_nothing_is_negative(batches, firsts):
    work = total(batches) + total(firsts, first=True)
    cost = work.cost()
    assert cost.work_s(work.rows, work.audio_s) == pytest.approx(work.work_s, rel=1e-6)
    assert min(cost.per_row_s, cost.per_audio_s, cost.start_s) >= 0


def test_loading_is_kept_apart():
    steady = [(8, 40.0, 0.8), (8, 80.0, 1.2)]  # 0.05 s a row and 0.01 s a second
    cost = (total(steady) + total([(8, 40.0, 5.8), (8, 80.0, 8.2)], first=True)).cost()
    assert (cost.per_row_s, cost.per_audio_s) == pytest.approx((0.05, 0.01))
    assert cost.start_s == pytest.approx(6.0)
    assert total([(8, 40.0, 5.8)], first=True).cost() is None  # cannot tell loading from working


def test_the_lake_remembers_by_stage_and_machine(tmp_path):
    config = config_for(tmp_path)
    lake = Lake(config.lake)
    stages = pipeline.audio_stages(config.annotate)
    prosody = stages[1]
    costs.add_measurement(lake, prosody, "A fast (R) CPU", total([(10, 50.0, 1.0)]))
    costs.add_measurement(lake, prosody, "A fast (R) CPU", total([(10, 50.0, 3.0)]))
    assert costs.load_costs(lake, stages, "A fast (R) CPU")["prosody"].work_s(20, 100.0) == pytest.approx(4.0)
    assert costs.load_costs(lake, stages, "another") == {}
    coarser = config_for(tmp_path, "annotate.prosody.hop_s=0.02")
    assert costs.load_costs(lake, pipeline.audio_stages(coarser.annotate), "A fast (R) CPU") == {}


def test_a_record_that_cannot_be_read_is_passed_over(tmp_path, caplog):
    config = config_for(tmp_path)
    lake, prosody = Lake(config.lake), MeasureProsody(config.annotate.prosody)
    costs.add_measurement(lake, prosody, "cpu", total([(10, 50.0, 1.0)]))
    (file,) = (tmp_path / "calibration" / "cpu").iterdir()
    file.write_text('{"rows": 3, "from another version": 1}')
    assert costs.load_costs(lake, [prosody], "cpu") == {}
    assert str(file) in caplog.text


def test_new_measurements_make_themselves_felt(tmp_path):
    config = config_for(tmp_path)
    lake, prosody = Lake(config.lake), MeasureProsody(config.annotate.prosody)
    costs.add_measurement(lake, prosody, "cpu", total([(10_000_000, 5e7, 1e6)]))
    costs.add_measurement(lake, prosody, "cpu", total([(20_000, 1e5, 6e3)]))
    cost = costs.load_costs(lake, [prosody], "cpu")["prosody"]
    assert cost.work_s(1, 5.0) == pytest.approx((0.1 + 0.3) / 2)


def test_a_stage_is_measured_while_it_runs(tmp_path):
    config = config_for(tmp_path).annotate
    # An option of its own: the process may have run the stage before.
    prosody = MeasureProsody(config.prosody.model_copy(update={"f0_floor_hz": 61.25}))
    rows = [{"utterance_id": f"u{number}", "duration_s": 1.0, WAVEFORM: speech(1.0, 120.0)} for number in range(3)]
    first, second = (run_measured(prosody, rows, config.guard, "here", on_gpu=False)[1] for _ in range(2))
    assert (first.starts, first.start_rows, first.rows) == (1, 3, 0)
    assert (second.starts, second.rows, second.audio_s) == (0, 3, 3.0)
    assert second.cost().work_s(3, 3.0) == second.work_s > 0
    lacking = [{"utterance_id": "silent"}]
    outcomes, nothing = run_measured(prosody, lacking, config.guard, "here", on_gpu=False)
    assert outcomes[0].error["type"] == "missing_input"
    assert nothing == CostSums()


def test_batches_at_the_same_time_share_what_passes():
    passed = iter([0.0, 0.0, 10.0, 14.0, 20.0, 30.0, 31.0])
    clock = SharedClock(lambda: next(passed))
    first = clock.start()  # at 0 s
    second = clock.start()  # at 10 s
    assert clock.stop(first) == 10.0 + 2.0  # at 14 s
    assert clock.stop(second) == 2.0 + 6.0  # at 20 s
    third = clock.start()  # at 30 s: nobody is charged for the pause
    assert clock.stop(third) == 1.0


def test_batches_beside_the_one_that_loads_do_not_count_as_warm(tmp_path):
    config = config_for(tmp_path).annotate
    loads, both = threading.Event(), threading.Barrier(2, timeout=60)

    class Loading(MeasureProsody):
        rows_at_a_time = 8

        def run(self, rows):
            if not loads.is_set():
                both.wait()
                loads.set()
            return super().run(rows)

    prosody = Loading(config.prosody.model_copy(update={"f0_floor_hz": 62.5}))

    def batch(rows):
        rows = [{"utterance_id": f"u{row}", "duration_s": 1.0, WAVEFORM: speech(1.0, 120.0)} for row in range(rows)]
        return run_measured(prosody, rows, config.guard, "here", on_gpu=True)[1]

    with ThreadPoolExecutor(2) as threads:
        work = functools.reduce(operator.add, threads.map(batch, (2, 3)))
    assert (work.starts, work.start_rows, work.rows) == (1, 5, 0)
    assert work.start_work_s > 0
    later = batch(4)
    assert (later.starts, later.rows) == (0, 4)
