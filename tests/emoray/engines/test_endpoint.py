"""The client of OpenAI's protocol: order, retries, whose error an error is."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from email.utils import formatdate

import numpy as np
import pytest
import soundfile
from engine_kit import Act, endpoint_config, serving

from emoray.engines import Chat, Question, Reply, open_engine
from emoray.engines.usage import count_tokens, counting
from emoray.errors import ConfigError, RefusedError, ServiceError, StageError, TransientError

SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


def ask(url, questions, chat=Chat(), **changes):  # noqa: B008 (frozen)
    config = endpoint_config(url, **changes)
    answers = open_engine("some-model", config).answer(questions, SCHEMA, 100, chat)
    return [answer.text if isinstance(answer, Reply) else answer for answer in answers]


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


def test_free_text_is_asked_for_without_a_schema_and_tokens_are_counted_where_the_server_says_them():
    choice = {"message": {"role": "assistant", "content": "Fine."}, "finish_reason": "stop"}
    bodies = [{"usage": {"prompt_tokens": 12, "completion_tokens": 3}}, {"usage": None}, {}]

    def script(body):
        return Act(body={"choices": [choice], **bodies[int(said(body))]})

    with serving(script) as (url, seen), counting() as tokens:
        engine = open_engine("some-model", endpoint_config(url))
        answers = engine.answer(questions("0", "1", "2"), None, 100, Chat())
        count_tokens([*answers, ServiceError("away")])
    assert all("response_format" not in body for body in seen)
    assert answers == [Reply("Fine.", tokens_read=12, tokens_written=3), Reply("Fine."), Reply("Fine.")]
    assert (tokens.read, tokens.written) == (12, 3)
    count_tokens(answers)  # nobody counts any more
    assert (tokens.read, tokens.written) == (12, 3)


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


def test_what_the_server_fails_at_is_its_rows_error_and_what_it_has_no_time_for_stays_to_do():
    def script(body):
        return {"good": (200, "fine"), "bad": (400, "too long"), "sick": (500, "oops"), "late": (503, "busy")}[
            said(body)
        ]

    with serving(script) as (url, seen):
        good, bad, sick, late = ask(url, questions("good", "bad", "sick", "late"))
    assert good == "fine"
    assert isinstance(bad, StageError)
    assert bad.kind == "refused_by_engine"
    assert "too long" in str(bad)
    assert isinstance(sick, StageError)
    assert sick.kind == "engine_error"
    assert isinstance(late, TransientError)
    assert late.kind == "engine_busy"
    assert [said(body) for body in seen].count("bad") == 1
    assert [said(body) for body in seen].count("sick") == 3


def test_63_rows_that_meet_a_busy_server_stay_to_do_whatever_becomes_of_the_64th():
    names = [str(number) for number in range(64)]
    with serving(lambda body: (200, "fine") if said(body) == "40" else (503, "busy")) as (url, _):
        answers = ask(url, questions(*names))
    assert answers[40] == "fine"
    assert [answer.kind for place, answer in enumerate(answers) if place != 40] == ["engine_busy"] * 63
    assert all(isinstance(answer, TransientError) for place, answer in enumerate(answers) if place != 40)


def test_a_server_that_says_when_to_come_again_is_left_in_peace_until_then():
    told = []

    def script(body):
        if told:
            return 200, "fine"
        told.append(body)
        return Act(status=503, body={"error": "starting"}, headers={"Retry-After": "1"})

    # The second request waits too, although it was never told: there is one slot.
    with serving(script) as (url, seen):
        assert ask(url, questions("one", "two"), patience_s=20, max_parallel=1) == ["fine", "fine"]
    assert len(seen) == 3
    assert seen[1]["at"] - seen[0]["at"] >= 1


def test_a_server_that_wants_longer_than_one_is_patient_is_not_waited_for():
    def script(body):
        when = formatdate(time.time() + 5000, usegmt=True)
        return Act(status=429, headers={"Retry-After": when}) if said(body) == "one" else (200, "fine")

    with serving(script) as (url, seen):
        answers = ask(url, questions("one", "two"), patience_s=600)
    assert answers[0].kind == "engine_busy"
    assert len(seen) == 2


def test_a_server_that_does_not_answer_at_all_is_no_rows_fault():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(ServiceError, match="does not answer"):
            ask(url, questions("one", "two"))


def test_a_server_that_is_down_is_asked_one_question_per_call_until_it_is_back():
    answers = {"status": 500}

    with serving(lambda body: (answers["status"], "here")) as (url, seen):
        for expected in (6, 7, 8):  # two questions, three attempts each; then one
            with pytest.raises(ServiceError):
                ask(url, questions("one", "two"))
            assert len(seen) == expected
        answers["status"] = 200
        assert ask(url, questions("one", "two")) == ["here", "here"]
        answers["status"] = 500
        with pytest.raises(ServiceError):
            ask(url, questions("one", "two"))
        assert len(seen) == 10 + 6


def test_a_server_that_hangs_is_given_up():
    with serving(lambda body: None) as (url, _), pytest.raises(ServiceError, match="Timeout"):
        ask(url, questions("one"), timeout_s=0.2, max_attempts=2)


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_a_refusal_of_everything_is_said_at_once(status):
    with serving(lambda body: (status, "no such model")) as (url, seen), pytest.raises(RefusedError) as caught:
        ask(url, questions("one"))
    assert caught.value.kind == "engine_refuses"
    assert "no such model" in str(caught.value)
    assert len(seen) == 1


def test_a_quota_that_is_used_up_is_not_waited_for():
    error = {"error": {"code": "insufficient_quota"}}
    with serving(lambda body: Act(status=429, body=error)) as (url, seen), pytest.raises(RefusedError):
        ask(url, questions("one"), patience_s=600)
    assert len(seen) == 1


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "abc")
    with serving(lambda body: (200, "fine")) as (url, seen):
        ask(url, questions("one"), api_key_env="SOME_KEY")
        assert seen[0]["key"] == "Bearer abc"
        monkeypatch.delenv("SOME_KEY")
        with pytest.raises(ConfigError, match="SOME_KEY"):
            ask(url, questions("one"), api_key_env="SOME_KEY")
    for url in (None, "127.0.0.1:8001/v1"):
        with pytest.raises(ConfigError) as caught:
            ask(url, questions("one"))
        assert caught.value.kind == "no_endpoint"


def test_a_template_its_arguments_and_further_fields_go_along_and_null_takes_a_field_away():
    chat = Chat(template="{{ messages }}", template_kwargs={"enable_thinking": False})
    extra = {"max_tokens": None, "max_completion_tokens": 7}
    with serving(lambda body: (200, "fine")) as (url, seen):
        ask(url, questions("one"), chat, extra_body=extra)
    assert seen[0]["chat_template"] == "{{ messages }}"
    assert seen[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert seen[0]["max_completion_tokens"] == 7
    assert "max_tokens" not in seen[0]


def test_the_system_text_can_be_put_into_the_users_turn():
    with serving(lambda body: (200, "fine")) as (url, seen):
        ask(url, questions("one"), Chat(system_turn="fold"))
    assert seen[0]["messages"] == [{"role": "user", "content": "Be brief.\n\none"}]
    assert "chat_template" not in seen[0]


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_audio_travels_in_16_bits(audio_format):
    samples = np.linspace(-1.1, 1.1, 1000, dtype=np.float32)
    with serving(lambda body: (200, "fine")) as (url, seen):
        ask(url, [Question("s", "u", audio=samples)], audio_format=audio_format)
    sound, text = seen[0]["messages"][1]["content"]
    assert sound["input_audio"]["format"] == audio_format
    data = base64.b64decode(sound["input_audio"]["data"])
    found, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 16_000
    assert np.array_equal(found, np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16))
    assert text == {"type": "text", "text": "u"}
