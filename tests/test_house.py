"""The house keeps its shape: which room may import which, where Ray may stand, what may not lie in the repository."""

from __future__ import annotations

import graphlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from house_kit import ROOT, circles, imports, module_graph, modules, takes_config

# Arrows point down only: a room imports from its own level and from the ones before it.
LEVELS = (
    {"errors", "config", "digest", "schema", "lake", "audio", "corpora"},
    {"stages", "models", "engines"},
    {"training", "evaluation", "interchange"},
    {"scoring"},
    {"registry"},
)
#: Functions of jobs/ that take the whole configuration: what the command line calls …
DOORS = {"run", "build", "stats", "listing", "rollback", "running"}
#: … and, by module, what prints all of it, sends it away, or calls a verb. Others take the sections they read.
WHOLE_CONFIGURATION = {
    "config": {"options"},
    "demo": {"_way", "_training", "_promote"},
    # Each check is in doctor's table and gets what the command line gave.
    "doctor.engines": {"check_engines"},
    "doctor.job": {"_guarded"},
    "doctor.machine": {
        *("check_python", "check_packages", "check_shadowing", "check_machine", "check_disk", "check_gpu"),
        "check_ports",
    },
    "doctor.services": {
        *("check_lake", "check_tracking", "check_champion", "check_ray", "check_token"),
    },
    "doctor.speech": {"check_audio", "check_espeak", "check_text_encoder"},
    "serve": {"serve_config"},
    "submit.package": {"build_job_package"},
}
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def room(dotted: str) -> str | None:
    """Room of the platform that a dotted name lies in."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "emoray" and len(parts) > 1 else None


def test_every_room_has_its_level():
    rooms = {room(name) for name, _ in modules()} - {None}
    assert rooms <= set(LEVEL_OF), "give the new room a level here and in docs"


def test_arrows_between_the_rooms_point_one_way():
    wrong = []
    for name, path in modules():
        own = room(name)
        for target in imports(name, path):
            other = room(target)
            if own in LEVEL_OF and other in LEVEL_OF and LEVEL_OF[other] > LEVEL_OF[own]:
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(sorted(wrong))


def test_rooms_form_no_circle():
    graph: dict[str, set[str]] = defaultdict(set)
    for name, path in modules():
        own = room(name)
        if own in LEVEL_OF:
            graph[own] |= {
                other for target in imports(name, path) if (other := room(target)) in LEVEL_OF and other != own
            }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_modules_form_no_circle():
    found = circles(module_graph(modules()))
    assert not found, "\n".join(" -> ".join(circle) for circle in found)


def test_a_planted_circle_is_found(tmp_path):
    """One arrow under TYPE_CHECKING, one inside a function: the checker must see both."""
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from emoray.stages.second import Two\n")
    second.write_text("def two():\n    from emoray.stages import first\n")
    planted = [("emoray.stages.first", first), ("emoray.stages.second", second)]
    assert len(circles(module_graph([*modules(), *planted]))) == 1
    assert not circles(module_graph([*modules(), planted[0]]))


#: More than these are no longer one room.
MODULES_PER_FOLDER = 16


def test_no_folder_has_too_many_modules():
    counts = Counter(path.parent for _, path in modules() if path.name != "__init__.py")
    crowded = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MODULES_PER_FOLDER}
    assert not crowded


def test_the_platform_knows_no_jobs_and_no_serving():
    wrong = [
        f"{name} imports {target}"
        for name, path in modules()
        if name.split(".")[0] == "emoray"
        for target in imports(name, path)
        if target.split(".")[0] in {"emoray_jobs", "emoray_serving"}
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_only_doors_take_the_whole_configuration():
    found = {
        name.removeprefix("emoray_jobs."): takes_config(path) - DOORS
        for name, path in modules()
        if name.startswith("emoray_jobs.")
    }
    assert {name: functions for name, functions in found.items() if functions} == WHOLE_CONFIGURATION


def test_every_form_of_the_whole_configuration_is_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "def a(config: Config): ...\nasync def b(*, x: 'Config | None' = None): ...\n"
        "class C:\n    def d(self, y: dict[str, base.Config], /): ...\n"
        "def e(cluster: ClusterConfig, z: Configs) -> Config: ...\n"
    )
    assert takes_config(path) == {"a", "b", "d"}


def test_ray_stands_behind_the_seam():
    wrong = [
        f"{name} imports {target}"
        for name, path in modules()
        if name.split(".")[0] == "emoray"
        for target in imports(name, path)
        if target.split(".")[0] == "ray"
    ]
    assert not wrong, "Ray is for jobs/ and serving/ only:\n" + "\n".join(sorted(wrong))


def test_the_checkers_see_what_they_should(tmp_path):
    """The two helpers above, on a module with each form of import: a blind checker would pass for ever."""
    source = (
        "import ray.data\nfrom emoray import lake\ndef f():\n    from ..registry import gate\n    from . import words\n"
    )
    path = tmp_path / "module.py"
    path.write_text(source)
    found = imports("emoray.stages.module", path)
    assert found == {"ray.data", "emoray.lake", "emoray.registry.gate", "emoray.stages.words"}
    assert LEVEL_OF[room("emoray.registry.gate")] > LEVEL_OF["stages"]


@pytest.mark.parametrize("folder", ["", "platform", "jobs", "serving", "tests"])
def test_folders_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_are_no_packages_and_have_names_of_their_own():
    assert not list((ROOT / "tests").rglob("__init__.py"))
    paths = defaultdict(list)
    for path in (ROOT / "tests").rglob("test_*.py"):
        paths[path.name].append(path)
    assert not [twins for twins in paths.values() if len(twins) > 1]


def test_the_root_does_not_shadow_pythons_platform():
    code = "import platform, uuid; print(platform.__file__); print(platform.system())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    file, system = run.stdout.split()
    assert not Path(file).is_relative_to(ROOT / "platform")
    assert system == "Linux"


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def test_tracked_files_name_no_path_of_this_machine():
    own = {str(ROOT), str(Path.home()), os.environ.get("PIP_FIND_LINKS", "")} - {"", "/"}
    pattern = re.compile("|".join(rf"(?<![\w.-]){re.escape(path)}(?![\w-])" for path in sorted(own)))
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    assert not wrong


def test_packaging_files_name_no_host():
    pattern = re.compile(r"https?://[\w.-]+|file:///|--(extra-)?index-url\s+\S|--find-links\s+\S")
    files = tracked("pyproject.toml", "Makefile", "requirements/*", ".ci/*", "*.lock", "infra/Containerfile")
    wrong = [f"{path.name}: {line}" for path in files for line in path.read_text().splitlines() if pattern.search(line)]
    assert len(files) >= 5
    assert not wrong


def test_nothing_large_is_tracked():
    assert not [str(path) for path in tracked() if path.stat().st_size > 1_000_000]
