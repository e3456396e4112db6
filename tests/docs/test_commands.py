"""Every command that README and documentation show is one: it parses, its overrides fit, its make target exists."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError
from docs_kit import DOCS, README, ROOT, SHELLS, blocks, commands, pages

from emoray.config import load
from emoray.errors import ConfigError
from emoray_jobs.cli import app
from emoray_jobs.config import Config

#: A literal that names configuration: `train.epochs`, `train.epochs=5`, `serve.limits`.
NAME = re.compile(r"`((?:" + "|".join(Config.model_fields) + r")(?:\.[a-z0-9_]+)+)(=[^`]*)?`")
#: Files of the repository that are called like a key.
FILES = (".py", ".yaml", ".md", ".json", ".parquet")


def emoray_lines(page: Path) -> list[list[str]]:
    """The commands of emoray on a page, as words; variables of the shell before them are taken off."""
    found = []
    for line in commands(page, *SHELLS):
        words = shlex.split(re.sub(r"\$\([^)]*\)", "VALUE", line))
        while words and re.match(r"^[A-Z_]+=", words[0]):
            words = words[1:]
        if words[:1] == ["emoray"]:
            found.append(words[1:])
    return found


@functools.cache
def configured(preset: str, overrides: tuple[str, ...]) -> Config:
    return load(Config, preset=preset, overrides=overrides, environ={})


def check(words: list[str]) -> None:
    """Parse a command line as `emoray` would, without running it; its preset and overrides must fit."""
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    common = bound.arguments.get("common")
    if common is not None:
        configured(common.preset, tuple(common.set))
    if words[0] == "submit":
        check([bound.arguments["verb"], *bound.arguments.get("arguments", ())])


def shown() -> Iterator[tuple[str, list[str]]]:
    for page in pages():
        for words in emoray_lines(page):
            yield str(page.relative_to(ROOT)), words
        for literal in re.findall(r"`emoray ([^`]*)`", page.read_text(encoding="utf-8")):
            yield str(page.relative_to(ROOT)), shlex.split(literal)


def test_every_command_parses():
    wrong, count = [], 0
    for page, words in shown():
        count += 1
        if words in (["VERB", "--help"], ["submit", "VERB"], ["--help"], ["corpus"]):
            continue
        # A command named in a sentence may leave its arguments out; with arguments it must be whole.
        try:
            check(words)
        except (CycloptsError, ConfigError) as error:
            if len(words) > 2 or not isinstance(error, CycloptsError) or "requires an argument" not in str(error):
                wrong.append(f"{page}: emoray {' '.join(words)}: {error}")
    assert count > 60
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line", ["emoray annotate --no-such-option", "emoray trian", "emoray train --set train.epocs=3", "emoray export"]
)
def test_a_command_that_is_none_is_found(line):
    with pytest.raises((CycloptsError, ConfigError)):
        check(shlex.split(line)[1:])


def test_the_readme_and_the_guides_show_every_verb():
    told = {words[0] for _, words in shown() if words}
    verbs = {name for name in app if not name.startswith("-")}
    assert verbs <= told, verbs - told


def test_every_make_target_and_module_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    wrong, count = [], 0
    for page in pages():
        for line in commands(page, *SHELLS):
            words = shlex.split(line)
            if words[0] == "make":
                count += 1
                wrong += [f"{page.name}: {line}" for word in words[1:2] if word not in phony.split()]
            if words[:2] == ["python", "-m"] and words[2].startswith(("benchmarks", "emoray")):
                count += 1
                wrong += [f"{page.name}: {line}"] if importlib.util.find_spec(words[2]) is None else []
    assert count > 10
    assert not wrong, "\n".join(wrong)


def test_every_configuration_shown_is_one(tmp_path):
    count = 0
    for page in pages():
        for text in blocks(page, "yaml"):
            path = tmp_path / "shown.yaml"
            path.write_text(text)
            load(Config, file=path, environ={})  # a key or value that does not fit raises
            count += 1
    assert count >= 5


def test_every_key_named_in_the_text_exists():
    known = set(names(Config, ""))
    wrong, count = [], 0
    for page in [README, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "guides").glob("*.md"))]:
        for name, value in NAME.findall(page.read_text(encoding="utf-8")):
            if not name.endswith(FILES):
                count += 1
                wrong += [] if name in known else [f"{page.name}: {name}{value}"]
    assert count > 40
    assert not wrong, "\n".join(wrong)


def names(section: type, path: str) -> Iterator[str]:
    """Dotted names of all sections and keys."""
    for name, field in section.model_fields.items():
        inner = f"{path}.{name}" if path else name
        yield inner
        if hasattr(field.annotation, "model_fields"):
            yield from names(field.annotation, inner)


def test_links_between_pages_lead_somewhere():
    wrong = []
    for page in [*pages(), *sorted((DOCS / "decisions").glob("*.md"))]:
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        wrong += [
            f"{page.relative_to(ROOT)}: {target}"
            for target in targets
            if "://" not in target and not (page.parent / target).exists()
        ]
    assert not wrong, "\n".join(wrong)


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
