"""Prompts are files with a version: shipped ones by name, your own by path."""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from emoray.errors import ConfigError

_PARTS = ("system", "user", "repair")


@dataclass(frozen=True)
class Prompt:
    """A prompt file's content.

    Attributes:
        text: The file as it is.
        version: What it says its version is.
        system: What holds for all rows.
        user: Template of what holds for one.
        repair: Template of the objection to an answer that cannot be used; its field is `problem`.
    """

    text: str
    version: int
    system: str
    user: str
    repair: str

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
    wrong = not isinstance(tree, dict) or set(tree) != set(parts)
    if wrong or not all(isinstance(tree[part], kind) for part, kind in parts.items()):
        raise ConfigError(
            "a prompt has version (a whole number) and system, user and repair (texts), no more",
            where=name,
            remedy="Start from a copy of a shipped one: platform/emoray/prompts",
        )
    for part, known in (("user", fields), ("repair", {"problem"})):
        unknown = _named(tree[part], f"{name}, {part}") - known if known is not None else set()
        if unknown:
            raise ConfigError(
                f"{part} names {', '.join(sorted(unknown))} in braces",
                where=name,
                remedy=f"It may name: {', '.join(sorted(known or ())) or 'nothing'}. Write {{{{ for a brace",
            )
    return Prompt(text, tree["version"], *(tree[part].strip() for part in _PARTS))


def read_chat_template(template: str) -> str:
    """The text of a chat template.

    Args:
        template: The text itself, or the path of a .jinja file.

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
