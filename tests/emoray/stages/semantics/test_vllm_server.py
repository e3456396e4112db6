"""vLLM's own server, started as the Makefile starts it, with the shipped bounds: text and audio."""

from __future__ import annotations

import contextlib

import pytest
from checkpoint_kit import WITHOUT_SYSTEM
from engine_kit import endpoint_config
from process_kit import vllm_server

from emoray.errors import RefusedError
from emoray.stages.guard import run_isolating_rows
from emoray.stages.semantics.record import SemanticsRecord
from emoray.stages.semantics.stage import build_semantics

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("vllm_engine")]  # skips where vLLM is missing


@pytest.fixture(scope="module")
def serve(tiny, vllm_engine, tmp_path_factory):
    """Starts a server of a tiny model, once; gives its address."""
    addresses = {}

    def start(name):
        if name in addresses:
            return addresses[name]
        log = tmp_path_factory.mktemp("server") / "log"
        addresses[name] = servers.enter_context(vllm_server(tiny(name), log))
        return addresses[name]

    with contextlib.ExitStack() as servers:
        yield start


@pytest.fixture
def described(configure, guard, norms):
    """Outcomes of rows by a writer behind a server, everything but model and address as shipped."""

    def run(kind, url, rows, model="tiny", engine=None, **changes):
        endpoint = endpoint_config(url, timeout_s=120, **(engine or {})).model_dump(mode="json")
        written = {"model": model, "revision": "r1", **changes}
        config = configure({"semantics": {"kind": kind, kind: written, "engine": endpoint}})
        return run_isolating_rows(build_semantics(config.semantics, norms), [dict(row) for row in rows], guard)

    return run


def all_records(outcomes):
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    for outcome in outcomes:
        SemanticsRecord(**{field: outcome.value[field] for field in SemanticsRecord.model_fields})
    return [outcome.value["text"] for outcome in outcomes]


def test_every_transcript_gets_a_record(serve, described, spoken):
    texts = all_records(described("text_llm", serve("qwen2"), spoken))
    assert len(set(texts)) > len(spoken) // 2


def test_a_row_that_is_too_long_is_its_own_error(serve, described, spoken):
    spoken[2]["transcribe"] = {**spoken[2]["transcribe"], "text": "and so on " * 3000}
    outcomes = described("text_llm", serve("qwen2"), spoken[:5])
    assert [outcome.error and outcome.error["type"] for outcome in outcomes] == [
        *[None] * 2,
        "refused_by_engine",
        *[None] * 2,
    ]


def test_a_wrong_model_and_a_model_that_does_not_hear_end_the_run(serve, described, spoken):
    with pytest.raises(RefusedError, match="does not exist"):
        described("text_llm", serve("qwen2"), spoken, model="other")
    with pytest.raises(RefusedError, match="not a multimodal model"):
        described("audio_llm", serve("qwen2"), spoken)


def test_a_template_that_drops_the_system_turn_is_noticed(serve, described, spoken):
    def text(system_turn):
        chat = {"template": WITHOUT_SYSTEM, "system_turn": system_turn}
        return all_records(described("text_llm", serve("qwen2"), spoken[:1], chat=chat))

    assert text("auto") == text("fold") != text("keep")


def test_every_clip_is_heard_in_either_format(serve, described, spoken):
    url = serve("qwen2_audio")
    as_wav, as_flac = (
        all_records(described("audio_llm", url, spoken, engine={"audio_format": name})) for name in ("wav", "flac")
    )
    assert as_wav == as_flac
    assert len(set(as_wav)) > len(spoken) // 2
