"""The command line: fast help, one clear line per error, exit codes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest
import yaml

from emoray.config import preset_names
from emoray_jobs import cli, verbs

VERBS = {name.split()[0] for name in verbs.VERBS}


def emoray(*words: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emoray_jobs", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    return lines[0]


@pytest.mark.parametrize("words", [["--help"], ["annotate", "--help"]])
def test_help_takes_less_than_half_a_second(words):
    used_s = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = emoray(*words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: other tests may be running beside this one.
        used_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert "Usage: emoray" in done.stdout
    assert min(used_s) < 0.5


def test_help_names_every_verb_and_every_verb_has_help():
    overview = emoray("--help").stdout
    for verb in VERBS:
        assert f" {verb} " in overview
    for preset in preset_names():
        assert preset in emoray("annotate", "--help").stdout


def test_help_imports_nothing_heavy():
    script = """
import sys
from emoray_jobs import cli
assert cli.main(["annotate", "--help"]) == 0
heavy = {"torch", "ray", "mlflow", "transformers", "polars", "pyarrow", "numpy", "pydantic", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)


def test_a_configuration_is_read_without_what_computes():
    code = """
import sys
from emoray_jobs.config import Config
print(sorted({"torch", "ray", "mlflow", "transformers"} & set(sys.modules)))
"""
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert read.stdout.strip() == "[]"


def test_usage_errors_name_the_nearest_and_exit_with_2():
    done = emoray("anotate")
    assert done.returncode == 2
    assert 'Did you mean "annotate"?' in error_line(done)
    done = emoray("annotate", "--retry-faild")
    assert done.returncode == 2
    assert "--retry-faild. Did you mean --retry-failed?" in error_line(done)


def test_configuration_errors_name_key_and_remedy_and_exit_with_2(tmp_path):
    cases = {
        ("--preset", "lptop"): "unknown preset 'lptop'. Did you mean 'laptop'?",
        ("--set", "annotate.batch_row=3"): "annotate.batch_row: unknown configuration key. Did you mean 'batch_rows'?",
        ("--set", "annotate.batch_rows=many"): "annotate.batch_rows: Input should be a valid integer",
        ("--config", str(tmp_path / "none.yaml")): "cannot read the configuration file",
    }
    for words, expected in cases.items():
        done = emoray("annotate", *words, cwd=tmp_path)
        assert done.returncode == 2, words
        line = error_line(done)
        assert line.startswith("error: ")
        assert expected in line


def test_job_errors_exit_with_1_and_show_a_trace_only_with_debug(tmp_path):
    done = emoray("annotate", cwd=tmp_path)
    assert done.returncode == 1
    assert "emoray corpus build --set corpus.name=synthetic" in error_line(done)
    traced = emoray("annotate", "--debug", cwd=tmp_path)
    assert traced.returncode == 1
    assert "Traceback (most recent call last)" in traced.stderr
    assert traced.stderr.strip().splitlines()[-1] == done.stderr.strip()


def test_configuration_is_merged_in_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("annotate: {batch_rows: 5, flush_rows: 6}\n")
    done = emoray(
        "annotate",
        *("--config", str(file), "--set", "annotate.flush_rows=7", "-s", "corpus.name=mine", "--show-config"),
        env={**os.environ, "EMORAY_ANNOTATE__BATCH_ROWS": "8"},
        cwd=tmp_path,
    )
    shown = yaml.safe_load(done.stdout)
    assert shown["annotate"]["batch_rows"] == 8  # the environment over the file
    assert shown["annotate"]["flush_rows"] == 7  # the command line over both
    assert shown["corpus"]["name"] == "mine"
    assert not list(tmp_path.glob(".emoray"))


def test_unexpected_errors_are_one_line_too(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def explode(*_, **__):
        raise ZeroDivisionError("a bug\nover two lines")

    monkeypatch.setattr("emoray_jobs.corpus.job.listing", explode)
    assert cli.main(["corpus", "list"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ZeroDivisionError: a bug over two lines. This should not happen")
    assert message.endswith("--debug for the trace\n")


def test_ctrl_c_exits_with_130(tmp_path):
    script = """
import os, signal
from emoray_jobs import cli
from emoray_jobs.corpus import job as corpus
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
def listing(config):
    os.kill(os.getpid(), signal.SIGINT)
corpus.listing = listing
raise SystemExit(cli.main(["corpus", "list"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "error: interrupted; what is done is kept\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m emoray_jobs annotate --show-config | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path
    )
    assert done.stdout == "lake:\n"
    assert done.stderr == ""
