"""The page of the configuration keys: their defaults from the preset `laptop`, their meaning from docstrings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import docstring_parser
from pydantic import BaseModel

from _generate.words import Schema, as_yaml, describe, resolve
from emoray.config import Section, preset_names, read_preset


@dataclass(frozen=True)
class Key:
    """A configuration key.

    Attributes:
        path: Dotted path, `train.epochs`.
        kind: What it takes, in words.
        default: Its value in the preset `laptop`.
        meaning: What the docstring of its class says; empty where it says nothing.
    """

    path: str
    kind: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class ConfigSection:
    """A section of the configuration with its keys and sections.

    Attributes:
        path: Dotted path; empty for the root.
        summary: What the docstring of its class says of the whole.
        meaning: What the class above says of it; empty where it says nothing.
        keys: Its own keys.
        sections: Its own sections.
    """

    path: str
    summary: str
    meaning: str
    keys: list[Key] = field(default_factory=list)
    sections: list[ConfigSection] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Target of links to it."""
        return "config-" + self.path.replace(".", "-").replace("_", "-")

    def walk(self) -> Iterator[ConfigSection]:
        """This section and all below it."""
        yield self
        for section in self.sections:
            yield from section.walk()


def configuration() -> ConfigSection:
    """The whole configuration."""
    from emoray_jobs.config import Config

    schema = Config.model_json_schema(mode="validation")
    return _section(Config, schema, schema["$defs"], "", read_preset("laptop"), "")


def _section(
    cls: type[BaseModel], schema: Schema, definitions: Mapping[str, Schema], path: str, tree: Any, meaning: str
) -> ConfigSection:
    known = _attributes(cls)
    found = ConfigSection(path, _summary(cls), meaning)
    for name, info in cls.model_fields.items():
        inner = f"{path}.{name}" if path else name
        its = schema["properties"][name]
        section_class = _section_class(info.annotation)
        if section_class:
            section_schema = resolve(next((one for one in its.get("anyOf", []) if "$ref" in one), its), definitions)
            values = tree[name] or {}  # null in the preset: a section that is switched off
            found.sections.append(
                _section(section_class, section_schema, definitions, inner, values, known.get(name, ""))
            )
        else:
            found.keys.append(Key(inner, describe(its, definitions), tree.get(name), known.get(name, "")))
    return found


def _section_class(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, also where it may be null; nothing for a key's."""
    named = [kind for kind in (get_args(annotation) or [annotation]) if kind is not type(None)]
    if len(named) == 1 and isinstance(named[0], type) and issubclass(named[0], BaseModel):
        return named[0]
    return None


def _attributes(cls: type[BaseModel]) -> dict[str, str]:
    """Attribute → what the docstrings of the class and of its bases say."""
    found = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Section) and base.__doc__:
            for entry in docstring_parser.parse(base.__doc__).params:
                for name in entry.arg_name.split(", "):  # several keys may share a line
                    found[name] = " ".join((entry.description or "").split())
    return found


def _summary(cls: type[BaseModel]) -> str:
    text = docstring_parser.parse(cls.__doc__ or "")
    return "\n\n".join(part for part in (text.short_description, text.long_description) if part)


def page() -> str:
    """Markdown of all configuration keys."""
    parts = []
    for section in list(configuration().walk())[1:]:
        depth = 2 + section.path.count(".")
        about = "\n\n".join(dict.fromkeys(part for part in (section.meaning, section.summary) if part))
        parts.append(f"({section.label})=\n\n{'#' * min(depth, 4)} {section.path}\n\n{about}")
        for key in section.keys:
            lines = [f"```{{confval}} {key.path}", f":type: {key.kind}", f":default: `{as_yaml(key.default)}`"]
            parts.append("\n".join([*lines, "", key.meaning, "```"]))
    return "\n\n".join(parts)


def presets_page() -> str:
    """Markdown of the presets: what each says of itself, and what it changes."""
    parts = []
    for name in preset_names():
        path = f"../../platform/emoray/presets/{name}.yaml"
        parts.append(f"## {name}\n\n```{{literalinclude}} {path}\n:language: yaml\n```")
    return "\n\n".join(parts)
