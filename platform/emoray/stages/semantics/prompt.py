"""Prompts are files with a version: shipped ones by name, your own by path."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from emoray.errors import ConfigError

_PARTS = ("system", "user", "repair")
Form = Literal["record", "free_text"]
FORMS: tuple[Form, ...] = ("record", "free_text")
#: Key of an example that is the answer; its others are what `user` names.
ANSWER = "answer"


@dataclass(frozen=True)
class Prompt:
    """A prompt file's content.

    Attributes:
        text: The file as it is.
        version: What it says its version is.
        system: What holds for all rows.
        user: Template of what holds for one.
        repair: Template of the objection to an answer that cannot be used; its field is `problem`.
        form: What it asks for: a `record` in JSON, or `free_text`, one paragraph.
        examples: Shown before the row: a value for each name in `user`, and `answer`, a record or a paragraph.
    """

    text: str
    version: int
    system: str
    user: str
    repair: str
    form: Form = "record"
    examples: tuple[Mapping[str, Any], ...] = ()

    def options(self) -> dict[str, Any]:
        """What of it enters the fingerprint: the version for people, the hash against forgetting to raise it."""
        return {"version": self.version, "sha256": hashlib.sha256(self.text.encode()).hexdigest()}


def read_prompt(name: str, fields: set[str] | None = None) -> Prompt:
    """Read a prompt.

    Args:
        name: A shipped prompt's name, or the path of a file (which ends in .yaml or .yml).
        fields: What `user` may name in braces; None does not look.

    Raises:
        ConfigError: There is no such prompt, or it is not of the form of the shipped ones.
    """
    text = _text(name)
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the prompt is not valid YAML: {error}", where=name) from error
    parts = {"version": int, **dict.fromkeys(_PARTS, str)}
    more = {"form", "examples"}
    wrong = not isinstance(tree, dict) or set(tree) - more != set(parts)
    if wrong or not all(isinstance(tree[part], kind) for part, kind in parts.items()):
        raise ConfigError(
            "a prompt has version (a whole number) and system, user and repair (texts); it may have form and examples",
            where=name,
            remedy="Start from a copy of a shipped one: platform/emoray/prompts",
        )
    form = tree.get("form", "record")
    if form not in FORMS:
        raise ConfigError(f"form is {form!r}", where=name, remedy=f"It may be: {', '.join(FORMS)}")
    for part, known in (("user", fields), ("repair", {"problem"})):
        unknown = _named(tree[part], f"{name}, {part}") - known if known is not None else set()
        if unknown:
            raise ConfigError(
                f"{part} names {', '.join(sorted(unknown))} in braces",
                where=name,
                remedy=f"It may name: {', '.join(sorted(known or ())) or 'nothing'}. Write {{{{ for a brace",
            )
    examples = _examples(tree.get("examples", []), {*_named(tree["user"], f"{name}, user"), ANSWER}, name)
    system, user, repair = (tree[part].strip() for part in _PARTS)
    return Prompt(text, tree["version"], system, user, repair, form, examples)


def _examples(given: object, keys: set[str], where: str) -> tuple[Mapping[str, Any], ...]:
    fits = isinstance(given, list) and all(isinstance(example, dict) and set(example) == keys for example in given)
    if not fits:
        raise ConfigError(
            "an example has not the keys of its prompt",
            where=f"{where}, examples",
            remedy=f"Give a list, in which each has: {', '.join(sorted(keys))}",
            kind="bad_example",
        )
    assert isinstance(given, list)
    return tuple(given)


def read_chat_template(template: str) -> str:
    """The text of a chat template, which is given as that text or as the path of a .jinja file.

    Raises:
        ConfigError: There is no such file, or it is no template.
    """
    if "{" in template:
        return template
    try:
        text = Path(template).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        what = f"cannot read the chat template: {error.strerror}"
        raise ConfigError(what, where=template, kind="bad_chat_template") from error
    if "{" not in text:
        raise ConfigError("the chat template names no message", where=template, kind="bad_chat_template")
    return text


def _text(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        try:
            return Path(name).expanduser().read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the prompt: {error.strerror}", where=name) from error
    folder = resources.files("emoray") / "prompts"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        shipped = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())
        raise ConfigError(
            f"no prompt is called {name!r}", remedy=f"Shipped: {', '.join(shipped)}; or give the path of a .yaml file"
        )
    return file.read_text(encoding="utf-8")


def _named(template: str, where: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigError(f"not a template: {error}", where=where, remedy="Write {{ for a brace") from error
