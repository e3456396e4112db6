"""Every preset's semantics as they are shipped, but for the model: bounds, dtype, batch size and all settings of vLLM.

Each in its own process, as a worker is.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
from checkpoint_kit import in_half_precision, own_code_ran, with_own_code

from emoray.config import BASE_PRESET, merge, preset_names, read_preset
from emoray.stages.semantics.record import SemanticsRecord

pytestmark = pytest.mark.long

WORKER = """
import json, pickle, sys

from emoray.config import validate
from emoray.stages.config import AnnotateConfig
from emoray.stages.guard import run_isolating_rows
from emoray.stages.semantics.stage import build_semantics

if __name__ == "__main__":
    tree, norms, rows = pickle.load(open(sys.argv[1], "rb"))
    config = validate(AnnotateConfig, tree)
    stage = build_semantics(config.semantics, norms)
    outcomes = []
    for start in range(0, len(rows), config.batch_rows):
        outcomes += run_isolating_rows(stage, rows[start : start + config.batch_rows], config.guard)
    json.dump([outcome.as_row() for outcome in outcomes], open(sys.argv[2], "w"))
"""
#: Preset, writer, tiny checkpoint, how it is saved.
CASES = [
    ("laptop", "text_llm", "qwen2", "float32"),
    ("laptop", "audio_llm", "qwen2_audio", "float16"),
    ("gpu", "text_llm", "qwen2", "float16"),
    ("gpu", "audio_llm", "qwen2_audio", "float32"),
    ("paper", "audio_llm", "qwen2_audio", "own_code"),
]


def shipped(preset):
    return merge(read_preset(BASE_PRESET), read_preset(preset))["annotate"]


def test_no_preset_is_left_out():
    def settings(preset):
        semantics = shipped(preset)["semantics"]
        return json.dumps(semantics["engine"])

    assert {settings(preset) for preset in preset_names()} == {settings(preset) for preset, *_ in CASES}


@pytest.fixture
def model(tiny, tmp_path):
    def saved(name, how):
        folder = tiny(name)
        assert os.path.exists(os.path.join(folder, "chat_template.jinja"))
        if how == "float16":
            return in_half_precision(folder, tmp_path / "model")
        return with_own_code(folder, tmp_path / "model") if how == "own_code" else folder

    return saved


def run_worker(tmp_path, tree, norms, rows):
    """Outcomes of rows in its own process, and what it wrote to stderr."""
    script, given, made = tmp_path / "worker.py", tmp_path / "given", tmp_path / "made.json"
    script.write_text(WORKER)
    given.write_bytes(pickle.dumps((tree, norms, rows)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(given), str(made)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
    )
    return (json.loads(made.read_text()) if made.exists() else None), done.stderr


@pytest.mark.usefixtures("vllm_engine")  # skips where vLLM is missing
@pytest.mark.parametrize(("preset", "kind", "name", "how"), CASES)
def test_every_row_gets_a_record(model, tmp_path, norms, spoken, preset, kind, name, how):
    folder = model(name, how)
    tree = merge(shipped(preset), {"semantics": {"kind": kind, kind: {"model": folder}}})
    outcomes, log = run_worker(tmp_path, tree, norms, spoken)
    assert outcomes is not None, log
    assert [outcome["error"] for outcome in outcomes] == [None] * len(spoken)
    for outcome in outcomes:
        SemanticsRecord(**{field: outcome["value"][field] for field in SemanticsRecord.model_fields})
    # A network that says the same to everything would hide that rows are mixed up.
    assert len({outcome["value"]["text"] for outcome in outcomes}) > len(spoken) // 2
    longest = max(len(outcome["value"]["vocal_delivery"]) for outcome in outcomes)
    assert longest > 128  # beyond what one repetition can express
    assert own_code_ran(folder) == (how == "own_code")


@pytest.mark.usefixtures("vllm_engine")
def test_a_models_own_code_is_not_run_unasked(model, tmp_path, norms, spoken):
    folder = model("qwen2", "own_code")
    over = {"semantics": {"kind": "text_llm", "text_llm": {"model": folder}}}
    run_worker(tmp_path, merge(shipped("laptop"), over), norms, spoken[:1])
    assert not own_code_ran(folder)
