"""The image's recipe, as far as it can be checked without building it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = re.sub(r"\\\n", " ", (ROOT / "infra" / "Containerfile").read_text())
LINES = [line for line in RECIPE.splitlines() if line.strip() and not line.startswith("#")]


def copied() -> list[str]:
    return [source for line in LINES if line.startswith("COPY ") for source in shlex.split(line)[1:-1]]


def test_it_holds_known_instructions_only():
    assert {line.split()[0] for line in LINES} == {"ARG", "FROM", "RUN", "WORKDIR", "ENV", "COPY", "USER", "CMD"}


def test_what_it_copies_is_there_and_gets_through_the_ignore_file():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored


def test_what_it_copies_makes_the_three_packages():
    packages = {Path(source).name for source in copied()}
    assert {"platform", "jobs", "serving", "requirements", "pyproject.toml"} <= packages
    named = set(re.findall(r"overrides(?:-gpu)?\.txt", RECIPE))
    assert named == {"overrides.txt", "overrides-gpu.txt"}
    assert all((ROOT / "requirements" / name).is_file() for name in named)


def test_its_shell_lines_parse():
    for line in LINES:
        if line.startswith("RUN "):
            subprocess.run(["bash", "-n", "-c", line.removeprefix("RUN ")], check=True, timeout=10)


def test_it_runs_as_a_plain_user_with_the_token_on():
    assert [line for line in LINES if line.startswith("USER ")] == ["USER ray"]
    assert any(line.startswith("ENV ") and "RAY_AUTH_MODE=token" in line for line in LINES)


def test_overrides_differ_in_triton_only():
    def lines(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text()
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    assert lines("overrides.txt") - lines("overrides-gpu.txt") == {'triton ; python_version < "3"'}
    assert lines("overrides-gpu.txt") <= lines("overrides.txt")
