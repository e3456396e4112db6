"""The page of the commands, from the command line's own application."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import docstring_parser
from cyclopts import App
from cyclopts.argument import Argument

from _generate.words import table


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        name: As it is typed, `emoray annotate`.
        app: Its cyclopts application.
    """

    name: str
    app: App

    @property
    def label(self) -> str:
        """Target of links to it."""
        return "command-" + self.name.removeprefix("emoray ").replace(" ", "-")


def commands() -> list[Command]:
    """Every command, in the order of `emoray --help`; a group's commands in the group's place."""
    from emoray_jobs.cli import app

    return list(_commands(app, "emoray"))


def _commands(app: App, name: str) -> Iterator[Command]:
    for word in app:
        if word.startswith("-"):
            continue
        command = Command(f"{name} {word}", app[word])
        inner = list(_commands(command.app, command.name))
        if inner:
            yield from inner
        else:
            yield command


def page() -> str:
    """Markdown of all commands."""
    found = commands()
    common = [one for one in _arguments(found[0].app) if _group(one) == "Configuration"]
    parts = ["## What each needs", _needs(), "## Options of every command", *_options("emoray", common)]
    for command in found:
        own = [one for one in _arguments(command.app) if _group(one) != "Configuration"]
        text = docstring_parser.parse(command.app.help)
        about = [text.short_description or "", text.long_description or ""]
        usage = f"```console\n$ {command.name}{_usage(own)}\n```"
        parts += [f"({command.label})=\n\n## {command.name}", usage, *about, *_options(command.name, own)]
    return "\n\n".join(part for part in parts if part)


def _needs() -> str:
    """The table of verbs."""
    from emoray_jobs.verbs import VERBS

    head = ("command", "tracking store", "Ray", "may run for hours", "can be submitted")
    rows = [
        (f"`emoray {name}`", *("yes" if one else "" for one in (verb.tracking, verb.ray, verb.long, verb.submit)))
        for name, verb in VERBS.items()
    ]
    return table(head, rows)


def _arguments(app: App) -> Sequence[Argument]:
    from emoray_jobs.cli import app as root

    found = app.assemble_argument_collection(default_parameter=root.default_parameter, parse_docstring=True)
    return [argument for argument in found if argument.show]


def _group(argument: Argument) -> str:
    return str(argument.parameter.group[0].name) if argument.parameter.group else ""


def _usage(arguments: Sequence[Argument]) -> str:
    words = [_title(one)[0] for one in arguments if not one.names[0].startswith("-") or one.required]
    return "".join(f" {word}" for word in words) + " [OPTIONS]"


def _title(argument: Argument) -> list[str]:
    """Names of an argument as they are typed, its value behind them."""
    if argument.required:
        return [argument.names[0].lstrip("-").upper()]
    if not argument.names[0].startswith("-"):
        return [f"{argument.names[0]}..."]
    names = list(dict.fromkeys(name for name in argument.names if not name.startswith("--empty-")))
    value = "" if argument.hint is bool else f" {_value(argument)}"
    return [name + value for name in sorted(names, key=lambda name: not name.startswith("--"))]


def _value(argument: Argument) -> str:
    choices = argument.get_choices()
    if choices:
        return "|".join(choices)
    name = argument.name.lstrip("-").upper().replace("-", "_")
    return f"{name}..." if "list" in str(argument.hint) or "tuple" in str(argument.hint) else name


def _options(program: str, arguments: Sequence[Argument]) -> list[str]:
    parts = [f"```{{program}} {program}\n```"]
    for argument in arguments:
        about = " ".join((argument.parameter.help or "").split())
        choices = argument.get_choices()
        if choices and argument.required:
            about += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
        if argument.field_info.default and isinstance(argument.field_info.default, str):
            about += f" Default: `{argument.field_info.default}`."
        parts.append(f"```{{option}} {', '.join(_title(argument))}\n{about}\n```")
    return parts
