"""Versions that were fitted with semantics by a language model: scored with it, and without where it is away."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scoring_kit as kit
from engine_kit import RECORD, endpoint_config, serving

from emoray.config import merge
from emoray.errors import ConfigError
from emoray.scoring.bundle_files import open_stages
from emoray.scoring.scorer import load_bundle
from emoray.stages.config import AnnotateConfig

PROMPT = "version: 4\nsystem: s\nuser: 'asked about {transcript}'\nrepair: '{problem}'\n"


@pytest.fixture
def fitted(tmp_path):
    """Writes a bundle whose semantics come from an endpoint, and the settings it was fitted with."""

    def make(url, kind="text_llm", **changes):
        prompt = tmp_path / "prompt.yaml"
        prompt.write_text(PROMPT if kind == "text_llm" else PROMPT.replace(" {transcript}", ""))
        engine = endpoint_config(url, max_attempts=1).model_dump(mode="json")
        model = {"model": "some", "revision": "r1", "prompts": [str(prompt)], **changes}
        tree = kit.annotate_config().model_dump(mode="json")
        tree = merge(tree, {"semantics": {"kind": kind, kind: model, "engine": engine}})
        return kit.make_bundle(tmp_path / kind, annotate=AnnotateConfig.model_validate(tree)), prompt

    return make


@pytest.mark.parametrize("kind", ["text_llm", "audio_llm"])
def test_a_version_brings_its_prompt_and_asks_the_engine(fitted, kind):
    with serving(lambda body: (200, json.dumps(RECORD))) as (url, seen):
        folder, prompt = fitted(url, kind)
        prompt.unlink()
        (score,) = load_bundle(folder).score([kit.request()])
    assert score.used == ("les", "gs", "es")
    assert score.semantics["emotion"] == RECORD["emotion"]
    asked = seen[0]["messages"][1]["content"]
    if kind == "text_llm":
        assert asked.startswith("asked about ")
        assert asked.removeprefix("asked about ").lower() == kit.SENTENCE.lower()
    else:
        assert [part["type"] for part in asked] == ["input_audio", "text"]
    assert open_stages(folder).annotate.semantics.kind == kind


def test_a_version_brings_all_its_prompts(fitted, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(PROMPT.replace("asked about", "what of"))
    with serving(lambda body: (200, json.dumps(RECORD))) as (url, seen):
        folder, prompt = fitted(url, prompts=[str(tmp_path / "prompt.yaml"), str(other)])
        prompt.unlink()
        other.unlink()
        (score,) = load_bundle(folder).score([kit.request()])
    assert score.used == ("les", "gs", "es")
    assert sorted(body["messages"][1]["content"].split()[0] for body in seen) == ["asked", "what"]
    assert len(score.semantics["texts"]) == 2


def test_a_version_from_before_there_could_be_several_prompts_is_read(fitted):
    folder, _ = fitted(None)
    stages = json.loads((folder / "stages.json").read_text())
    for kind in ("text_llm", "audio_llm"):
        (stages["annotate"]["semantics"][kind]["prompt"],) = stages["annotate"]["semantics"][kind].pop("prompts")
    (folder / "stages.json").write_text(json.dumps(stages))
    assert open_stages(folder).annotate.semantics.text_llm.prompts == [str(folder / "prompt.yaml")]


def test_an_engine_that_is_away_takes_the_semantics_along_and_nothing_else(fitted):
    with serving(lambda body: (503, "gone")) as (url, _):
        folder, _ = fitted(url)
        (score,) = load_bundle(folder).score([kit.request()])
    assert score.used == ("les", "gs")
    assert "does not answer" in score.absent["es"]
    assert np.isfinite(score.valence.value)


def test_a_model_that_is_not_here_is_named_and_the_rest_is_scored(fitted):
    folder, _ = fitted(None)
    stages = json.loads((folder / "stages.json").read_text())
    semantics = stages["annotate"]["semantics"]
    semantics["engine"]["kind"] = "vllm"
    semantics["text_llm"] |= {"model": "./no/such/model", "revision": None}
    (folder / "stages.json").write_text(json.dumps(stages))
    (score,) = load_bundle(folder).score([kit.request()])
    assert score.used == ("les", "gs")
    assert "./no/such/model" in score.absent["es"]


def test_a_prompt_that_is_gone_is_found_before_a_version_is_made(fitted, tmp_path):
    folder, prompt = fitted(None)
    prompt.unlink()
    settings = open_stages(folder).annotate.model_dump(mode="json")
    settings["semantics"]["text_llm"]["prompts"] = [str(prompt)]
    with pytest.raises(ConfigError, match=r"prompt\.yaml"):
        kit.make_bundle(tmp_path / "again", annotate=AnnotateConfig.model_validate(settings))
