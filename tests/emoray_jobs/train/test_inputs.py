"""What a run is: a name that holds all that makes its result, and nothing of how it is launched."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import pytest
from jobs_kit import config
from pydantic import BaseModel
from training_kit import pack_rows, planted_rows

from emoray.config import merge, validate
from emoray.errors import ConfigError
from emoray.lake.tables import Lake
from emoray.stages.norms import Norms
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.training_set import TrainingSet
from emoray_jobs.config import Config
from emoray_jobs.train.inputs import TrainingInputs, prepare_run


def keys(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and annotation of each key of a section, and of the sections in it."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, (*path, name))
        else:
            yield (*path, name), field.annotation


def literals(annotation: Any) -> list[Any]:
    """The values that a Literal allows, inside a union too."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in literals(part)]


def changed(config: Config, section: str, path: tuple[str, ...], annotation: Any) -> Config:
    """The configuration with another value of one key.

    The candidates fit every type of today's keys; a key of a new type needs one more.
    """
    tree = config.model_dump()
    value: Any = tree[section]
    for part in path:
        value = value[part]
    for other in (*literals(annotation), 7, 0.75, "elsewhere", (0.5, 0.9), not value):
        change: Any = other
        for part in reversed(path):
            change = {part: change}
        try:
            made = validate(Config, merge(tree, {section: change}))
        except ConfigError:
            continue
        if made != config:
            return made
    pytest.fail(f"no other value found for {section}.{'.'.join(path)}: add a candidate")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, TrainingInputs]:
    folder = str(tmp_path_factory.mktemp("lake"))
    made = config(folder, "model.text_width=12")
    lake, set_hash = pack_rows(folder, planted_rows(40, seed=0), made.model)
    return made, TrainingInputs(made.corpus, made.annotate, TrainingSet.open(lake, set_hash), {}, Norms.unfitted())


def name_of(config: Config, data: TrainingInputs) -> str:
    return prepare_run(Lake(config.lake), data, config.model, config.train, config.launch).assignment.run


def case(path: object) -> str | None:
    return ".".join(path) if isinstance(path, tuple) else None


@pytest.mark.parametrize(("path", "annotation"), keys(LaunchConfig), ids=case)
def test_no_key_of_launch_changes_a_runs_name(packed, path, annotation):
    config, data = packed
    assert name_of(changed(config, "launch", path, annotation), data) == name_of(config, data)


@pytest.mark.parametrize(("path", "annotation"), keys(TrainConfig), ids=case)
def test_every_key_of_train_changes_a_runs_name(packed, path, annotation):
    config, data = packed
    assert name_of(changed(config, "train", path, annotation), data) != name_of(config, data)
