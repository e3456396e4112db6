"""Sides that run in turn: their times, their results, what a reset undoes, and what is left after a kill."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import _report
from benchmarks.proc import descendants
from benchmarks.speed.measure import Contender, Measurement, Reading, rounds, speed_ratio

PEERS = Path(__file__).parents[3] / "benchmarks" / "speed" / "peers"

#: Counts its runs since the last reset, holds 64 MiB from the second on, and has a child that only waits.
COUNTER = f"""
import subprocess, sys, time
sys.path.insert(0, {str(PEERS)!r})
from protocol import serve, task

child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
state = {{"runs": 0, "held": b""}}

def work():
    print("a library prints this")
    state["runs"] += 1
    if state["runs"] > 1:
        state["held"] = b"x" * (64 * 2**20)
    until = time.perf_counter() + task()["seconds"]
    while time.perf_counter() < until:
        pass

serve(work, lambda: state.update(runs=0, held=b""), lambda: {{"runs": state["runs"], "child": child.pid}})
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script = tmp_path / "counter.py"
    script.write_text(COUNTER)
    return [sys.executable, str(script)]


def test_a_side_starts_anew_or_goes_on_as_it_is_told(command: list[str], tmp_path: Path) -> None:
    with Contender("counter", command, {"seconds": 0.7}, tmp_path) as contender:
        first, second, third = contender.run(), contender.run(reset=False), contender.run()
    assert [one.results["runs"] for one in (first, second, third)] == [1, 2, 1]
    assert 0.7 <= first.seconds < 5
    # Its memory and its child's, sampled while it ran: the second run held 64 MiB that the first did not.
    assert second.peak_bytes - first.peak_bytes > 60 * 2**20


def test_a_killed_side_leaves_no_process_behind(command: list[str], tmp_path: Path) -> None:
    with Contender("counter", command, {"seconds": 0.0}, tmp_path) as contender:
        child = contender.run().results["child"]
        assert child in descendants(contender.pid)
        with pytest.raises(RuntimeError, match="ended before"):
            contender.kill_after(30.0)
    with Contender("victim", command, {"seconds": 60.0}, tmp_path) as victim:
        family = descendants(victim.pid)
        assert len(family) == 2
        reading = victim.kill_after(0.2)
    assert 0.2 <= reading.seconds < 10
    assert not any(Path("/proc", str(pid), "exe").exists() for pid in family)


def test_a_side_that_dies_says_what_it_last_printed(tmp_path: Path) -> None:
    contender = Contender("broken", [sys.executable, "-c", "raise SystemExit('the reason')"], {}, tmp_path)
    with pytest.raises(RuntimeError, match="the reason"), contender:
        pass


def test_rounds_take_turns_and_drop_the_warm_up(command: list[str], tmp_path: Path) -> None:
    lines: list[str] = []
    with (
        Contender("slow", command, {"seconds": 0.3}, tmp_path) as slow,
        Contender("fast", command, {"seconds": 0.1}, tmp_path) as fast,
    ):
        readings = rounds([fast, slow], 2, lines.append)
    assert {name: len(taken) for name, taken in readings.items()} == {"fast": 2, "slow": 2}
    assert len(lines) == 3
    # Over twice as fast, whatever else the machine does: both only wait for the clock.
    assert speed_ratio("x", "x", readings, "fast", "slow").median > 1.5


def test_a_ratio_says_how_many_times_as_fast_ours_is() -> None:
    readings = {"ours": [Reading(2.0, 10, None), Reading(4.0, 30, None)], "peer": [Reading(3.0, 5, None)] * 2}
    one = speed_ratio("x", "x", readings, "ours", "peer")
    assert one.ratios == [1.5, 0.75]
    assert one.median == 1.125
    assert one.peak_bytes == {"ours": 30, "peer": 5}
    assert one.record()["median"] == 1.125


@pytest.mark.parametrize(
    ("floors", "held"),
    [({}, True), ({"x": {"at_least": 1.0}}, True), ({"x": {"at_least": 1.2}}, False), ({"x": {"at_most": 1.0}}, False)],
)
def test_a_floor_fails_and_a_goal_does_not(
    floors: dict[str, dict[str, float]], held: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Measurement("x", "clips/s", [1.0, 1.1, 1.3])
    assert _report(one, {"goals": {"x": {"at_least": 2.0}}, "floors": floors}) is held
    printed = capsys.readouterr().out
    assert "median 1.100 (1.000 … 1.300): clips/s" in printed
    assert "goal: {'at_least': 2.0} MISSED" in printed
