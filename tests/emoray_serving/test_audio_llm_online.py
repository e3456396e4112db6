"""An audio language model behind the running service: vLLM in the describer's replica, `vllm serve`, and a bad server.

One application takes up one version after the other: fitted with vLLM, with vLLM's own server, and with a server of
the test's. The model is tiny and random; the machinery is all there.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import scoring_kit as kit
from engine_kit import RECORD, endpoint_config, serving
from process_kit import free_port, vllm_server
from serving_kit import Service

from emoray import config as settings
from emoray.audio.io import decode
from emoray.config import merge
from emoray.engines.budget import LATE
from emoray.stages.config import AnnotateConfig
from emoray.stages.pipeline import annotate_rows, audio_stages, text_stages
from emoray_jobs import serve as serve_job
from emoray_jobs.config import Config
from emoray_serving.transcriber import without_corpus_times

pytestmark = pytest.mark.long
TRANSCRIPT = {"transcript": kit.SENTENCE}
CLIPS = [kit.wav_bytes(kit.speech(2.0 + 0.5 * number, 120 + 60 * number, number)) for number in range(3)]


def written_by(engine, **model) -> AnnotateConfig:
    """Stages whose semantics an audio language model writes, in few tokens."""
    short = {"phrase_characters": 20, "sentence_characters": 40, **model}
    tree = {"semantics": {"kind": "audio_llm", "audio_llm": short, "engine": engine}}
    return AnnotateConfig.model_validate(merge(kit.annotate_config().model_dump(mode="json"), tree))


def offline(annotate: AnnotateConfig, body: bytes) -> dict:
    """The record that annotate's stages write of a clip."""
    heard = annotate.model_copy(update={"transcribe": without_corpus_times(annotate.transcribe)})
    row = {
        "utterance_id": "u",
        "speaker_id": None,
        "transcript": kit.SENTENCE,
        "words": None,
        "waveform": decode(body, annotate.audio).samples,
    }
    stages = [*audio_stages(heard)[1:], *text_stages(heard, kit.norms())[:2]]
    annotate_rows(stages, [row], annotate.guard)
    return {name: value for name, value in row["semantics"].items() if name not in ("text", "texts")}


@pytest.fixture(scope="module")
def service(tmp_path_factory, ray_session):
    """The application, before its first champion."""
    folder = tmp_path_factory.mktemp("service")
    config = settings.load(
        Config,
        overrides=[
            f"lake.root={folder / 'lake'}",
            f"serve.http.port={free_port()}",
            "serve.limits.max_budget_ms=40000",  # the cores are shared
            "serve.gateway.refresh_s=0.2",
            "serve.scorer.poll_s=0.2",
            "serve.scorer.keep_previous_s=2",
            "serve.describer.engine.endpoint={timeout_s: 60, backoff_s: 0.01, max_backoff_s: 0.1, patience_s: 0.2}",
            "serve.describer.engine.retry_s=1",
        ],
    )
    with serve_job.running(config) as url:
        yield Service(config, url, folder)


@pytest.fixture
def champion(service):
    """Makes a version with these stages the champion, and waits until the service has taken it up."""

    def promote(seed: int, annotate: AnnotateConfig) -> str:
        version = service.register(seed, annotate)
        service.make_champion(version)
        taken = lambda: service.client.get("/readyz").json().get("version") == version.version  # noqa: E731
        service.until(taken, f"taking up version {version.version}", 300)
        return version.version

    return promote


def described(service, body, **params) -> dict:
    """The reply to a clip, when the model has been loaded."""

    def full() -> dict | None:
        reply = service.score(body, **TRANSCRIPT, **params).raise_for_status().json()
        return reply if reply["semantics"]["used"] == "full" else None

    return service.until(full, "an answer of the model", 300)


def everything_is_used(reply: dict) -> None:
    assert (reply["semantics"]["used"], reply["semantics"]["absent"]) == ("full", [])
    assert all(share > 0 for share in reply["explanation"]["gates"].values())
    assert set(reply["explanation"]["gates"]) == {"les", "gs", "es"}
    assert any(word["emphasised"] for word in reply["transcript"]["words"])


def test_vllm_in_the_describers_replica_writes_what_annotate_writes(service, champion, tiny, vllm_engine):
    annotate = written_by(vllm_engine, model=tiny("qwen2_audio"))
    champion(1, annotate)
    assert service.status()["semantics"] == "audio_llm"
    replies = [described(service, body) for body in CLIPS]
    for reply in replies:
        everything_is_used(reply)
    found = [reply["semantics"]["description"] for reply in replies]
    assert len({json.dumps(one) for one in found}) == len(CLIPS), "it does not hear the clips"
    assert found == [offline(annotate, body) for body in CLIPS]
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda body: described(service, body), CLIPS * 3))
    assert [reply["semantics"]["description"] for reply in together] == found * 3
    # Less time than the model needs: the clip is scored without it.
    reserve_ms = service.config.serve.limits.scoring_reserve_ms
    started = time.monotonic()
    reply = service.score(CLIPS[0], budget_ms=reserve_ms + 60, **TRANSCRIPT).raise_for_status().json()
    assert time.monotonic() - started < 20
    assert reply["semantics"]["used"] in ("none", "transcript")
    assert {one["reason"] for one in reply["semantics"]["absent"]} == {LATE}
    everything_is_used(described(service, CLIPS[1]))


@pytest.mark.usefixtures("vllm_engine")  # skips where vLLM is missing
def test_a_server_of_vllm_writes_what_annotate_writes(service, champion, tiny, tmp_path):
    with vllm_server(tiny("qwen2_audio"), tmp_path / "log") as url:
        engine = endpoint_config(url, timeout_s=120).model_dump(mode="json")
        annotate = written_by(engine, model="tiny", revision="r1")
        champion(2, annotate)
        replies = [described(service, body) for body in CLIPS]
        for reply in replies:
            everything_is_used(reply)
        found = [reply["semantics"]["description"] for reply in replies]
        assert len({json.dumps(one) for one in found}) == len(CLIPS), "it does not hear the clips"
        assert found == [offline(annotate, body) for body in CLIPS]
    away = service.score(CLIPS[0], **TRANSCRIPT).raise_for_status().json()
    assert away["semantics"]["used"] == "transcript"
    assert "does not answer" in away["semantics"]["absent"][0]["reason"]


def test_a_bad_server_costs_the_description_and_never_the_score(service, champion):
    act = {"now": (200, json.dumps(RECORD))}
    with serving(lambda body: act["now"]) as (url, _):
        champion(3, written_by(endpoint_config(url).model_dump(mode="json"), model="some", revision="r1"))
        everything_is_used(described(service, CLIPS[0]))
        for now, budget_ms, said in (
            (None, 3000, LATE),
            ((500, "out of order"), 40_000, "out of order"),
            ((404, "the model does not exist"), 40_000, "the model does not exist"),
            ((200, "I hear a voice."), 40_000, "no valid record"),
        ):
            act["now"] = now
            # What the engine was refused for before is forgotten after retry_s.
            reply = service.until(lambda: _saying(service, said, budget_ms), said)  # noqa: B023 (called at once)
            assert reply["semantics"]["used"] == "transcript"
            assert [one["part"] for one in reply["semantics"]["absent"]] == ["es"]
            assert any(word["emphasised"] for word in reply["transcript"]["words"])
            assert reply["timing_ms"]["total"] < 20_000
        act["now"] = (200, json.dumps(RECORD))
        everything_is_used(described(service, CLIPS[0]))


def _saying(service, said, budget_ms) -> dict | None:
    reply = service.score(CLIPS[0], budget_ms=budget_ms, **TRANSCRIPT).raise_for_status().json()
    reasons = [one["reason"] for one in reply["semantics"]["absent"]]
    return reply if any(said in reason for reason in reasons) else None
