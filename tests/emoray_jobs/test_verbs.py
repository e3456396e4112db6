"""The table of verbs says what the command line has, and what each verb's code needs."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from cyclopts import App
from house_kit import module_graph, modules

from emoray_jobs import cli
from emoray_jobs.verbs import VERBS, find_verb

#: Ask MLflow's store by themselves, without importing it.
ASKS_BY_ITSELF = {"doctor"}
#: Reads what a version's stage is called, and opens no store.
READS_NAMES = {"export"}


def commands(app: App, before: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of all commands of an app, groups by their members."""
    for name, command in app._commands.items():
        if name.startswith("-"):
            continue
        inside = list(commands(command, (*before, name)))
        yield from inside or [" ".join((*before, name))]


@functools.cache
def graph_of_modules() -> dict[str, set[str]]:
    return module_graph(modules())


@functools.cache
def reached(start: str) -> set[str]:
    """Modules that a module imports, directly or through others."""
    graph, found, waiting = graph_of_modules(), set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph.get(name, ())
    return found


def test_the_table_has_the_commands_of_the_command_line():
    assert {name for name in VERBS if "--" not in name} == set(commands(cli.app))


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_that_opens_the_tracking_store_says_so(name: str):
    opens = "emoray.registry.tracking" in reached(f"emoray_jobs.{VERBS[name].module}")
    assert VERBS[name].tracking == ((opens and name not in READS_NAMES) or name in ASKS_BY_ITSELF)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_that_needs_ray_can_start_it(name: str):
    """Not the other way round: evaluating a version may have to pack features with Ray first, and mostly has not."""
    if VERBS[name].ray:
        assert "emoray_jobs.cluster.session" in reached(f"emoray_jobs.{VERBS[name].module}")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["annotate", "--split", "dev", "--plan"], "annotate --plan"),
        (["annotate", "--retry-failed"], "annotate"),
        (["corpus", "build"], "corpus build"),
        (["corpus"], None),
        (["anotate"], None),
        ([], None),
    ],
)
def test_the_verb_of_a_command_line_is_found(words: list[str], name: str | None):
    assert find_verb(words) == name
