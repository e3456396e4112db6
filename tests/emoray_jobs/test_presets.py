"""The shipped presets: each is a whole configuration, and an overlay repeats nothing of what it lies over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from emoray.config import BASE_PRESET, load, preset_names, read_preset
from emoray_jobs.config import Config

OVERLAYS = [name for name in preset_names() if name != BASE_PRESET]


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_the_documented_presets_are_there():
    assert set(preset_names()) == {"laptop", "gpu", "paper", "emosphere", "multistage", "perspective", "challenge"}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_whole_configuration(name):
    config = load(Config, preset=name, environ={})
    assert load(Config, preset=name, overrides=["corpus.name=other"], environ={}).corpus.name == "other"
    assert config.model_dump(mode="json").keys() == read_preset(BASE_PRESET).keys()


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_says_only_what_differs(name):
    base = dict(leaves(read_preset(BASE_PRESET)))
    repeated = [path for path, value in leaves(read_preset(name)) if base[path] == value]
    assert not repeated
