"""Configuration: which layer wins, and how a mistake is named."""

from __future__ import annotations

import pytest
from error_kit import of_kind

from emoray.config import load, merge, preset_names, read_preset, to_yaml
from emoray.errors import ConfigError
from emoray.training.config import TrainConfig
from emoray_jobs.config import Config


def test_later_layers_win(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("train: {seed: 1, epochs: 7}\nlaunch: {workers: 3}\n")
    environ = {"EMORAY_TRAIN__EPOCHS": "8", "EMORAY_LAUNCH__WORKERS": "4", "OTHER": "x"}
    config = load(Config, file=file, environ=environ, overrides=["launch.workers=5"])
    assert (config.train.seed, config.train.epochs, config.launch.workers) == (1, 8, 5)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_complete_and_survives_its_own_printing(preset, tmp_path):
    config = load(Config, preset=preset, environ={})
    file = tmp_path / "shown.yaml"
    file.write_text(to_yaml(config))
    assert load(Config, file=file, environ={}) == config


@pytest.mark.parametrize(
    ("override", "kind", "named"),
    [
        ("trian.epochs=3", "unknown_key", "^trian: .*'train'"),
        ("train.epoch=3", "unknown_key", r"^train\.epoch: .*'epochs'"),
        ("train.epochs=none", "bad_config", r"^train\.epochs: .*'none'"),
        ("train.epochs=0", "bad_config", r"^train\.epochs: .*greater than 0"),
        ("corpus.kind=sythetic", "bad_config", r"^corpus\.kind: .*'synthetic'"),
        ("train.epochs", "bad_override", r"'train\.epochs'"),
        ("train.epochs=[1", "bad_yaml", r"^train\.epochs: "),
    ],
)
def test_a_mistake_is_named_with_its_key(override, kind, named):
    with pytest.raises(ConfigError, match=named, check=of_kind(kind)):
        load(Config, overrides=[override], environ={})


@pytest.mark.parametrize(("key", "now"), TrainConfig.moved_keys.items())
def test_a_key_that_has_moved_is_refused_with_its_new_path(key, now, tmp_path):
    value = to_yaml(load(Config, environ={}).launch).split(f"{key}: ")[1].splitlines()[0]
    file = tmp_path / "old.yaml"
    file.write_text(f"train: {{{key}: {value}}}\n")
    given = ({"file": file}, {"overrides": [f"train.{key}={value}"]}, {"environ": {f"EMORAY_TRAIN__{key}": value}})
    for layers in given:
        with pytest.raises(ConfigError) as refused:
            load(Config, **{"environ": {}, **layers})
        assert (refused.value.kind, refused.value.where) == ("moved_key", f"train.{key}")
        assert now in str(refused.value.remedy)
    load(Config, environ={}, overrides=[f"{now}={value}"])


def test_an_unknown_preset_and_an_unreadable_file(tmp_path):
    with pytest.raises(ConfigError, match=r"'latop'.*'laptop'", check=of_kind("unknown_preset")):
        read_preset("latop")
    with pytest.raises(ConfigError, match=r"none\.yaml", check=of_kind("unreadable_file")):
        load(Config, file=tmp_path / "none.yaml", environ={})


def test_another_kind_inherits_nothing_that_it_must_refuse():
    config = load(Config, overrides=["corpus.kind=manifest", "corpus.manifest.path=calls.csv"], environ={})
    assert config.corpus.kind == "manifest"


def test_merge_leaves_its_arguments_alone():
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}
