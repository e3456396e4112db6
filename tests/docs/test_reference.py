"""The reference is generated from the code: every key and every command has its line there, with a meaning."""

from __future__ import annotations

import re
from typing import Any

import pytest
from _generate import PAGES
from _generate import configuration as keys_of
from _generate.commands import commands
from _generate.http_api import openapi
from docs_kit import DOCS

from emoray.config import read_preset
from emoray_jobs import cli


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: page() for name, page in PAGES.items()}


def leaves(tree: Any, section: keys_of.ConfigSection) -> list[str]:
    """Paths of the keys in the preset, by the sections that the configuration has."""
    inner = {one.path.rpartition(".")[2]: one for one in section.sections}
    found = []
    for name, value in tree.items():
        path = f"{section.path}.{name}" if section.path else name
        found += leaves(value, inner[name]) if name in inner else [path]
    return found


def test_every_configuration_key_has_its_line(pages):
    preset = leaves(read_preset("laptop"), keys_of.configuration())
    lines = re.findall(
        r"^```\{confval\} (\S+)\n:type: (.+)\n:default: `(.*)`\n\n(.*)\n```$", pages["configuration"], re.M
    )
    assert sorted(path for path, *_ in lines) == sorted(preset)
    assert len(preset) > 300
    assert not [path for path, kind, _, _ in lines if not kind.strip()]
    assert ("train.epochs", "20") in {(path, default) for path, _, default, _ in lines}


def test_every_key_has_a_meaning():
    """From the `Attributes:` of its class: write it there."""
    keys = [key for section in keys_of.configuration().walk() for key in section.keys]
    assert not [key.path for key in keys if not key.meaning]


def test_every_section_is_described():
    sections = list(keys_of.configuration().walk())[1:]
    assert not [section.path for section in sections if not (section.meaning and section.summary)]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_command_has_its_line_with_all_that_its_help_shows(command, pages, capsys):
    assert f"\n## {command.name}\n" in pages["commands"]
    section = pages["commands"].partition(f"\n## {command.name}\n")[2].partition("\n## ")[0]
    assert cli.main([*command.name.split()[1:], "--help"]) == 0
    shown = capsys.readouterr().out
    entries = re.findall(r"^```\{option\} (.*)\n(.*)\n```$", section, re.M)
    assert all(about.strip() for _, about in entries), section
    # Names that --help prints for what must be given (`VERB --verb`) stand there without dashes.
    names = {name.strip("-,").lower() for titles, _ in entries for name in re.findall(r"(?<!\S)[\w-]+", titles)}
    rows = re.findall(r"^│ (?:\* )? *((?:[A-Z]+ )?--.*?)(?:  |│)", shown.partition("─ Configuration ─")[0], re.M)
    printed = set(re.findall(r"--([a-z][a-z-]+)", " ".join(rows)))
    assert printed <= names, printed - names
    sentence = " ".join(shown.split("\n\n")[1].split())[:40]
    assert sentence in " ".join(section.split())


def test_all_commands_of_the_help_are_there(capsys):
    assert cli.main(["--help"]) == 0
    listed = set(re.findall(r"^│ ([a-z][a-z-]+) ", capsys.readouterr().out, re.M))
    assert len(listed) > 10
    assert listed == {command.name.split()[1] for command in commands()}


def test_every_route_and_schema_of_the_api_is_there(pages):
    document = openapi()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"## {method.upper()} {path}\n" in pages["http"] + "\n"
    for title, schema in document["components"]["schemas"].items():
        section = pages["http"].partition(f"### {title}\n")[2].partition("\n### ")[0]
        assert [name for name in schema.get("properties", {}) if f"| `{name}` |" not in section] == []


def test_each_generated_part_stands_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    assert set(re.findall(r"<!-- generated: (\w+) -->", text)) == set(PAGES)
