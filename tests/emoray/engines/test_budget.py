"""Questions with a budget, against a real server: in time they say why there is no answer, and no server is blamed."""

from __future__ import annotations

import time

import pytest
from engine_kit import Act, endpoint_config, serving

from emoray.engines import Chat, Question, Reply, open_engine
from emoray.engines.budget import LATE, OutOfTimeError, budget, left_s
from emoray.errors import ServiceError

QUESTION = Question("", "How is it said?")


def ask(url, *, within_s, **changes):
    engine = open_engine("some-model", endpoint_config(url, **changes))
    began = time.monotonic()
    with budget(within_s):
        (answer,) = engine.answer([QUESTION], None, 100, Chat())
    return answer, time.monotonic() - began


def test_there_is_no_limit_outside_and_an_inner_one_ends():
    assert left_s() is None
    with budget(60):
        with budget(-1):
            assert left_s() == 0
        assert 50 < left_s() <= 60
    assert left_s() is None


@pytest.mark.parametrize("manner", ["hang", "drip"])
def test_a_slow_answer_is_given_up_in_time(manner):
    with serving(lambda body: Act("Calmly. " * 100, manner=manner)) as (url, _):
        answer, took_s = ask(url, within_s=0.3)
    assert isinstance(answer, OutOfTimeError)
    assert answer.what == LATE
    assert took_s < 5


def test_what_the_server_said_meanwhile_is_told():
    with serving(lambda body: (503, "loading the model")) as (url, _):
        answer, took_s = ask(url, within_s=0.5, patience_s=600, max_backoff_s=0.1)
    assert isinstance(answer, OutOfTimeError)
    assert answer.what.startswith(LATE)
    assert "loading the model" in answer.what
    assert took_s < 5


def test_a_server_that_is_away_is_said_before_the_budget_is_spent():
    with serving(lambda body: None) as (url, _):
        pass  # nobody listens there any more
    began = time.monotonic()
    with pytest.raises(ServiceError, match="does not answer"):
        ask(url, within_s=60, patience_s=0.2)
    assert time.monotonic() - began < 20


def test_a_server_with_too_little_time_is_not_taken_for_one_that_is_away():
    acts = [Act(manner="hang"), Act(status=500), Act("Calmly.")]
    with serving(lambda body: acts.pop(0)) as (url, seen):
        late, _ = ask(url, within_s=0.3)
        # One that is away is asked once, without a second attempt.
        answer, _ = ask(url, within_s=60)
    assert isinstance(late, OutOfTimeError)
    assert isinstance(answer, Reply)
    assert len(seen) == 3


def test_nothing_is_sent_without_time():
    with serving(lambda body: (200, "Calmly.")) as (url, seen):
        answer, _ = ask(url, within_s=0)
    assert isinstance(answer, OutOfTimeError)
    assert not seen
