"""Typed configuration: a preset, then a YAML file, then the environment, then dotted overrides. Later ones win.

Configuration classes live beside what they configure, are frozen and refuse unknown keys. They hold no defaults: the
preset `laptop` is complete; the others hold only what differs from it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from emoray.errors import ConfigError

BASE_PRESET = "laptop"
ENVIRONMENT_PREFIX = "EMORAY_"


class Section(BaseModel):
    """Base of every configuration class: frozen, no unknown keys, no infinite numbers.

    Attributes:
        moved_keys: Key that the class once had → its path in the whole configuration today.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    moved_keys: ClassVar[dict[str, str]] = {}


Root = TypeVar("Root", bound=Section)


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = resources.files("emoray") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load(
    root: type[Root],
    *,
    preset: str = BASE_PRESET,
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Root:
    """Read the configuration of a job.

    Args:
        root: The job's typed root.
        preset: Name of a shipped preset; merged over `laptop`.
        file: YAML file with the keys that differ; may name its own `preset`.
        overrides: `section.key=value`, the value in YAML syntax.
        environ: Environment (by default the process's): `EMORAY_SECTION__KEY=value`.

    Raises:
        ConfigError: Names the exact key, what was given and what was expected.
    """
    tree = read_preset(BASE_PRESET)
    from_file: dict[str, Any] = {}
    if file is not None:
        from_file = _read_yaml(Path(file))
        preset = from_file.pop("preset", preset)
    if preset != BASE_PRESET:
        tree = merge(tree, read_preset(preset))
    tree = merge(tree, from_file)
    for name, text in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            tree = merge(tree, _nest(path, _value(text, name)))
    for override in overrides:
        path_text, separator, text = override.partition("=")
        if not separator or not path_text:
            raise ConfigError(
                f"override {override!r} is not of the form section.key=value",
                remedy="For example train.epochs=5",
                kind="bad_override",
            )
        tree = merge(tree, _nest(path_text.split("."), _value(text, path_text)))
    return validate(root, tree)


def validate(root: type[Root], tree: Mapping[str, Any]) -> Root:
    """Turn a plain mapping into the typed root, or name the key that does not fit.

    Raises:
        ConfigError: The first offending key, its value, what was expected and the nearest known name. For a key that
            has moved the kind is `moved_key`, and the message names its new path.
    """
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            key, section = str(first["loc"][-1]), _section(root, first["loc"][:-1])
            if section is not None and key in section.moved_keys:
                now = section.moved_keys[key]
                raise ConfigError(
                    f"this key is {now} now", where=path, remedy=f"Write {now} instead", kind="moved_key"
                ) from None
            known = [] if section is None else list(section.model_fields)
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Known keys here: {', '.join(known)}"
            raise ConfigError("unknown configuration key", where=path, remedy=remedy, kind="unknown_key") from None
        given = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise ConfigError(
            f"{first['msg']}{given}", where=path, remedy="`--show-config` prints the configuration in effect"
        ) from None


def read_preset(name: str) -> dict[str, Any]:
    """The content of a shipped preset.

    Raises:
        ConfigError: There is no such preset; the message names the nearest one.
    """
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        remedy = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown preset {name!r}", remedy=f"{remedy}Presets: {', '.join(names)}", kind="unknown_preset"
        )
    text = (resources.files("emoray") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text) or {})


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge one tree over another; mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def to_yaml(config: Section) -> str:
    """The configuration as YAML, as `--show-config` prints it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration file: {error.strerror}", where=str(path), kind="unreadable_file"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path), kind="bad_yaml") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("the configuration file must hold a mapping", where=str(path))
    return tree


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def _value(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"value {text!r} is not valid YAML: {error}", where=where, kind="bad_yaml") from error


def _section(root: type[Section], path: Sequence[str | int]) -> type[Section] | None:
    """The class of the section at a path; None where no single class stands there."""
    current: Any = root
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return None
        current = field.annotation
    return current if isinstance(current, type) and issubclass(current, Section) else None
