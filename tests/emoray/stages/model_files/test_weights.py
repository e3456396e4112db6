"""Which files a model's name means, at which revision, fetched how often: against a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_kit import hub_server

from emoray.errors import ConfigError
from emoray.stages.model_files.weight_files import used_weights, wanted
from emoray.stages.model_files.weights import model_folder, revision

SMALL = {
    "config.json": b"{}",
    "generation_config.json": b'{"a": 1}',
    "tokenizer_config.json": b'{"b": 1}',
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b",
    "qwen.tiktoken": b"YQ== 0",
    "README.md": b"# A model",
}
MODEL = {
    **SMALL,
    "model.safetensors": b"weights",
    "model.fp16.safetensors": b"half",
    "pytorch_model.bin": b"the same weights",
    "consolidated.safetensors": b"and again",
    "training_args.bin": b"?",
    "modeling_own.py": b"print('hello')",
    "ear/config.json": b'{"c": 1}',
    "ear/model.safetensors": b"ear",
    "ear/pytorch_model.bin": b"ear again",
    "onnx/model.onnx": b"graph",
}
#: Prints the folder of a model and the files in it, or its hash.
CODE = """
import json, sys
from emoray.errors import ConfigError
from emoray.stages.model_files.weights import model_folder, revision

what, model, at, remote_code = json.loads(sys.argv[1])
try:
    if what == "revision":
        print(json.dumps(revision(model, at)))
    else:
        folder = model_folder(model, at, remote_code=remote_code)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        print(json.dumps([str(folder), {str(path.relative_to(folder)): path.read_text() for path in paths}]))
except ConfigError as error:
    print(json.dumps({"kind": error.kind}))
"""


@pytest.fixture
def hub():
    with hub_server() as server:
        yield server


@pytest.fixture
def start(hub, tmp_path):
    """Starts a process that asks for a model; all share one cache."""

    def process(what, model, at=None, *, remote_code=False, **environment):
        names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        path = os.pathsep.join(filter(None, sys.path))
        return subprocess.Popen(
            [sys.executable, "-c", CODE, json.dumps([what, model, at, remote_code])],
            env={**inherited, **names, "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return process


@pytest.fixture
def ask(start):
    def result(*arguments, **options):
        process = start(*arguments, **options)
        output, log = process.communicate(timeout=240)
        assert process.returncode == 0, log
        return json.loads(output)

    return result


def test_only_what_is_read_is_fetched_and_python_only_where_it_may_run(hub, ask):
    hub.add("org/model", MODEL)
    _, files = ask("folder", "org/model")
    read = {"model.safetensors", "ear/config.json", "ear/model.safetensors"}
    assert set(files) == read | (set(SMALL) - {"README.md"})
    assert sorted(hub.fetched) == sorted(files)
    _, files = ask("folder", "org/model", remote_code=True)
    assert "modeling_own.py" in files


def test_the_revision_that_is_named_is_loaded(hub, ask):
    first = hub.add("org/model", {**MODEL, "model.safetensors": b"old"}, tag="v1")
    hub.add("org/model", MODEL)
    for name in ("v1", first):
        folder, files = ask("folder", "org/model", name)
        assert files["model.safetensors"] == "old"
        assert Path(folder).name == first
    assert ask("folder", "org/model")[1]["model.safetensors"] == "weights"
    assert ask("folder", "org/model", "v2") == ask("folder", "org/other") == {"kind": "missing_model"}


def test_a_hash_needs_no_weights_and_is_that_of_the_folder(hub, ask):
    hub.add("org/model", MODEL)
    before = ask("revision", "org/model")
    assert not [name for name in hub.fetched if name.endswith((".safetensors", ".bin"))]
    folder, _ = ask("folder", "org/model", remote_code=True)
    assert revision(folder) == before == ask("revision", "org/model")
    assert ask("revision", "org/model", HF_HUB_OFFLINE="1") == before


def test_other_weights_code_or_template_are_another_model_and_a_readme_is_not(hub, ask):
    def hash_with(**changes):
        hub.add("org/model", {**MODEL, **{name.replace("__", "."): content for name, content in changes.items()}})
        return ask("revision", "org/model")

    same = hash_with(README__md=b"new")
    changed = [
        hash_with(model__safetensors=b"x"),
        hash_with(chat_template__jinja=b"x"),
        hash_with(modeling_own__py=b"x"),
    ]
    assert hash_with() == same
    assert len({same, *changed}) == 4


def test_processes_of_one_machine_fetch_a_model_once(hub, start):
    hub.add("org/model", {**MODEL, "model.safetensors": b"w" * 5_000_000})
    processes = [start("folder", "org/model") for _ in range(3)]
    folders = set()
    for process in processes:
        output, log = process.communicate(timeout=240)
        assert process.returncode == 0, log
        folders.add(json.loads(output)[0])
    assert len(folders) == 1
    assert hub.fetched.count("model.safetensors") == 1


def test_without_a_network_the_cache_will_do(hub, ask):
    hub.add("org/model", MODEL)
    online = ask("folder", "org/model")
    assert ask("folder", "org/model", HF_HUB_OFFLINE="1") == online
    assert ask("folder", "org/other", HF_HUB_OFFLINE="1") == {"kind": "missing_model"}


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "optimizer.bin", "training_args.bin"], ["pytorch_model.bin"]),
        (["model.fp16.safetensors"], ["model.fp16.safetensors"]),
        (["consolidated.safetensors", "tekken.json"], ["consolidated.safetensors"]),
        (["adapter_model.safetensors", "adapter_config.json"], ["adapter_model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["model.onnx", "README.md"], []),
    ],
)
def test_weights_are_taken_in_one_form(names, used):
    assert used_weights(names) == used


def test_a_part_in_a_folder_of_its_own_has_a_form_of_its_own():
    paths = ["model.safetensors", "pytorch_model.bin", "vocoder/pytorch_model.bin", "vocoder/config.json", "a/b.py"]
    assert wanted(paths, remote_code=False) == ["model.safetensors", "vocoder/config.json", "vocoder/pytorch_model.bin"]
    assert "a/b.py" in wanted(paths, remote_code=True)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(ConfigError) as caught:
        model_folder(str(tmp_path))
    assert caught.value.kind == "missing_model"
