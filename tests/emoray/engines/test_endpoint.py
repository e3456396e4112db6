"""The client of OpenAI's protocol: order, retries, whose error an error is."""

from __future__ import annotations

import base64
import io
import socket
import threading

import numpy as np
import pytest
import soundfile
from engine_kit import endpoint_config, serving

from emoray.engines import Question, open_engine
from emoray.errors import ConfigError, ServiceError, StageError, TransientError

SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


def ask(url, questions, **changes):
    config = endpoint_config(url, **changes)
    return open_engine("some-model", config).answer(questions, SCHEMA, 100)


def questions(*texts):
    return [Question("Be brief.", text) for text in texts]


def said(body):
    return body["messages"][-1]["content"]


def test_answers_come_back_in_order_whatever_the_order_of_their_arrival():
    second = threading.Event()

    def script(body):
        if said(body) == "one":
            second.wait(20)
        if said(body) == "two":
            second.set()
        return 200, f"to {said(body)}"

    with serving(script) as (url, seen):
        assert ask(url, questions("one", "two", "three")) == ["to one", "to two", "to three"]
    assert {body["path"] for body in seen} == {"/v1/chat/completions"}
    body = seen[0]
    assert body["model"] == "some-model"
    assert body["temperature"] == 0
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_no_more_requests_are_under_way_than_allowed():
    lock, under_way, most = threading.Lock(), [0], [0]
    together = threading.Barrier(2)

    def script(body):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        together.wait(20)
        with lock:
            under_way[0] -= 1
        return 200, "yes"

    with serving(script) as (url, _):
        ask(url, questions(*"abcdef"), max_parallel=2)
    assert most[0] == 2


def test_what_passes_is_tried_again_and_leaves_no_trace():
    left = {"one": [503, 429], "two": []}

    def script(body):
        statuses = left[said(body)]
        return (statuses.pop(), "busy") if statuses else (200, "fine")

    with serving(script) as (url, seen):
        assert ask(url, questions("one", "two")) == ["fine", "fine"]
    assert len(seen) == 4


def test_what_stays_is_the_error_of_its_own_row():
    def script(body):
        return {"good": (200, "fine"), "bad": (400, "too long"), "sick": (500, "oops")}[said(body)]

    with serving(script) as (url, seen):
        good, bad, sick = ask(url, questions("good", "bad", "sick"))
    assert good == "fine"
    assert isinstance(bad, StageError)
    assert bad.kind == "refused_by_engine"
    assert "too long" in str(bad)
    assert isinstance(sick, TransientError)
    assert [said(body) for body in seen].count("bad") == 1
    assert [said(body) for body in seen].count("sick") == 3


def test_a_server_that_does_not_answer_at_all_is_no_rows_fault():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(ServiceError, match="does not answer"):
            ask(url, questions("one", "two"))


def test_a_server_that_is_down_is_tried_once_per_call_until_it_is_back():
    answers = {"status": 503}

    with serving(lambda body: (answers["status"], "here")) as (url, seen):
        for expected in (3, 4, 5):
            with pytest.raises(ServiceError):
                ask(url, questions("one"))
            assert len(seen) == expected
        answers["status"] = 200
        assert ask(url, questions("one")) == ["here"]
        answers["status"] = 503
        with pytest.raises(ServiceError):
            ask(url, questions("one"))
        assert len(seen) == 6 + 3


def test_a_server_that_hangs_is_given_up():
    with serving(lambda body: None) as (url, _), pytest.raises(ServiceError, match="Timeout"):
        ask(url, questions("one"), timeout_s=0.2, max_attempts=2)


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_of_everything_is_said_at_once(status):
    with serving(lambda body: (status, "no such model")) as (url, seen), pytest.raises(ServiceError, match="no such"):
        ask(url, questions("one"))
    assert len(seen) == 1


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "abc")
    with serving(lambda body: (200, "fine")) as (url, seen):
        ask(url, questions("one"), api_key_env="SOME_KEY")
        assert seen[0]["key"] == "Bearer abc"
        monkeypatch.delenv("SOME_KEY")
        with pytest.raises(ConfigError, match="SOME_KEY"):
            ask(url, questions("one"), api_key_env="SOME_KEY")
    with pytest.raises(ConfigError, match="address"):
        ask(None, questions("one"))


def test_audio_travels_without_loss():
    samples = np.linspace(-1, 1, 1000, dtype=np.float32)
    content = Question("s", "u", audio=samples).messages()[1]["content"]
    data = base64.b64decode(content[0]["input_audio"]["data"])
    found, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == 16_000
    assert np.array_equal(found, samples)
    assert content[1] == {"type": "text", "text": "u"}
