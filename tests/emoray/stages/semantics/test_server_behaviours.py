"""What becomes of rows, and of the run, when a server misbehaves: one real HTTP server, one table.

Each behaviour is met twice: by one row among others that are answered, and by all rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from engine_kit import RECORD, Act, endpoint_config, serving

from emoray.errors import EmorayError
from emoray.stages.guard import run_isolating_rows
from emoray.stages.semantics.stage import build_semantics

GOOD = json.dumps(RECORD)
ROWS, ODD = 10, 3
VALUE, STAYS = "a value", "stays to do"


@dataclass(frozen=True)
class Behaviour:
    """What the server does, and what is to become of it.

    Attributes:
        acts: What it does at a row's first, second, … request; the last goes on for ever.
        row: Outcome of one row that meets it while others are answered: VALUE, STAYS, the kind of the row's error, or
            (kind,) of the error that ends the run.
        all: The same where all rows meet it.
        requests: How many requests the odd row causes; None if that depends on time.
    """

    acts: tuple[Act, ...]
    row: Any
    all: Any
    requests: int | None = None


def said(content: Any, **changes: Any) -> Behaviour:
    return Behaviour((Act(content, **changes),), VALUE, VALUE, 1)


def failing(*acts: Act) -> Behaviour:
    """Fails at a row: three attempts, then the row's error, unless no row is answered."""
    return Behaviour(acts, "engine_error", ("engine_unreachable",), 3)


def busy(*acts: Act) -> Behaviour:
    return Behaviour(acts, STAYS, ("engine_unreachable",))


def of_row(kind: str, act: Act, requests: int = 1) -> Behaviour:
    """A row's own error; ten rows with the same are no accident."""
    return Behaviour((act,), kind, ("no_usable_answer",), requests)


def refused(act: Act) -> Behaviour:
    """The row's own, unless a harmless question is refused too."""
    return Behaviour((act,), "refused_by_engine", ("engine_refuses",), 1)


def refusing_all(act: Act) -> Behaviour:
    return Behaviour((act,), ("engine_refuses",), ("engine_refuses",))


THOUGHT = 'They sound glad, so {"emotion": "joy"} or not?'
TABLE = {
    # Passing failures.
    "500 for ever": failing(Act(status=500, body={"error": "oops"})),
    "500 once": Behaviour((Act(status=500), Act(GOOD)), VALUE, VALUE, 2),
    "503 for ever": busy(Act(status=503, body={"error": "loading"})),
    "503 once": Behaviour((Act(status=503), Act(GOOD)), VALUE, VALUE, 2),
    "503 with a Retry-After that is kept": Behaviour(
        (Act(status=503, headers={"Retry-After": "0.2"}), Act(GOOD)), VALUE, VALUE, 2
    ),
    "503 with a Retry-After beyond all patience": replace(
        busy(Act(status=503, headers={"Retry-After": "3600"})), requests=1
    ),
    "429 for ever": busy(Act(status=429, body={"error": "too many requests"})),
    "502 of a proxy": busy(Act(status=502, body=b"<html>Bad Gateway</html>")),
    "504 of a proxy": busy(Act(status=504, body=b"")),
    "408": failing(Act(status=408)),
    "hang": failing(Act(manner="hang")),
    "reset in the middle of the body": failing(Act(GOOD, manner="reset")),
    "end in the middle of the body": failing(Act(GOOD, manner="cut")),
    "body that drips for ever": failing(Act(GOOD, manner="drip")),
    "page of HTML with status 200": failing(Act(body=b"<html>Welcome</html>")),
    "error with status 200": failing(Act(body={"error": {"message": "upstream"}})),
    "no choices": failing(Act(body={"choices": []})),
    "finish_reason error": failing(Act("", finish="error")),
    # Refusals of a row.
    "400, too long": refused(Act(status=400, body={"error": "maximum context length"})),
    "413": refused(Act(status=413)),
    "422": refused(Act(status=422)),
    "refusal": of_row("refused_by_model", Act(None, message={"refusal": "I cannot help with that."})),
    "content filter": of_row("content_filtered", Act(None, finish="content_filter")),
    "content filter after half of it": of_row("content_filtered", Act(GOOD[:20], finish="content_filter")),
    "null": of_row("no_text", Act(None)),
    "empty": of_row("no_text", Act("")),
    # Refusals of everything.
    "401": refusing_all(Act(status=401, body={"error": "bad key"})),
    "403": refusing_all(Act(status=403)),
    "404, wrong model": refusing_all(Act(status=404, body={"error": "the model does not exist"})),
    "redirect": refusing_all(Act(status=307, headers={"Location": "https://example.org/"})),
    "429, quota used up": refusing_all(Act(status=429, body={"error": {"code": "insufficient_quota"}})),
    # Answers that cannot be used, after the model was shown what is wrong.
    "length": of_row("answer_cut_off", Act(GOOD[:60], finish="length"), 2),
    "length in the middle of a thought": of_row("answer_cut_off", Act(f"<think>{THOUGHT}", finish="length")),
    "length, and all of it in reasoning_content": of_row(
        "answer_cut_off", Act(None, finish="length", message={"reasoning_content": THOUGHT})
    ),
    "broken JSON": of_row("bad_record", Act(GOOD[:-1]), 2),
    "prose": of_row("bad_record", Act("I hear a glad voice."), 2),
    "another object": of_row("bad_record", Act('{"mood": "glad"}'), 2),
    "broken JSON, then better": Behaviour((Act(GOOD[:-1]), Act(GOOD)), VALUE, VALUE, 2),
    # Answers that can be used.
    "thought": said(f"<think>{THOUGHT}</think>\n{GOOD}"),
    "thought that the prompt began": said(f"{THOUGHT}</think>{GOOD}"),
    "thought in a field of its own": said(GOOD, message={"reasoning_content": THOUGHT}),
    "all in the thoughts' field": said(None, message={"reasoning_content": GOOD}),
    "channels": said(f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|channel|>final<|message|>{GOOD}"),
    "fence": said(f"```json\n{GOOD}\n```"),
    "sentences with braces around it": said(f"Here {{as asked}} it is: {GOOD} {{That is all}}"),
    "draft, then the record": said(f'{{"emotion": "?"}} {GOOD}'),
    "whole record, then chatter up to the bound": said(f"{GOOD} And more", finish="length"),
    "line ends inside strings": said(GOOD.replace("High and", "High\nand")),
    "parts": said([{"type": "text", "text": GOOD[:30]}, {"type": "text", "text": GOOD[30:]}]),
    "no finish_reason": said(GOOD, finish=None),
}


@pytest.fixture
def rows(speak):
    row = speak([("What", 0.1, 0.3, 120, -20), ("day", 0.8, 1.3, 180, -15)], 1.5)
    named = [{**row, "utterance_id": f"u{number}"} for number in range(ROWS)]
    return [{**row, "transcribe": {**row["transcribe"], "text": row["utterance_id"]}} for row in named]


@pytest.fixture
def run(configure, guard, plain_norms, rows):
    """Runs the writer against a server that behaves so to the rows of these numbers."""

    def run_rows(behaviour: Behaviour, odd: set[int]):
        def script(body):
            turns = body["messages"]
            number = next((n for n in range(ROWS) if f"Said: u{n}\n" in turns[1]["content"]), None)
            if number not in odd and number is not None:
                return Act(GOOD)
            met.append(number)
            return behaviour.acts[min(met.count(number), len(behaviour.acts)) - 1]

        met: list[int | None] = []
        with serving(script) as (url, _):
            patience = {"timeout_s": 1, "patience_s": 2.5} if behaviour.acts[0].manner in ("hang", "drip") else {}
            engine = endpoint_config(url, **patience).model_dump(mode="json")
            model = {"model": "some", "revision": "r1"}
            config = configure({"semantics": {"kind": "text_llm", "text_llm": model, "engine": engine}})
            stage = build_semantics(config.semantics, plain_norms)
            return run_isolating_rows(stage, rows, guard), met.count(ODD)

    return run_rows


def what_became(outcome):
    if outcome.error is None:
        return VALUE
    return STAYS if outcome.stays_to_do else outcome.error["type"]


@pytest.mark.parametrize("name", TABLE)
def test_one_row_meets_it(run, name):
    behaviour = TABLE[name]
    if isinstance(behaviour.row, tuple):
        with pytest.raises(EmorayError) as caught:
            run(behaviour, {ODD})
        assert caught.value.kind == behaviour.row[0]
        return
    outcomes, requests = run(behaviour, {ODD})
    assert [what_became(outcome) for outcome in outcomes] == [
        behaviour.row if number == ODD else VALUE for number in range(ROWS)
    ]
    if behaviour.requests is not None:
        assert requests == behaviour.requests
    if behaviour.row == VALUE:
        assert outcomes[ODD].value["emotion"] == "joy"


@pytest.mark.parametrize("name", TABLE)
def test_all_rows_meet_it(run, name):
    behaviour = TABLE[name]
    if isinstance(behaviour.all, tuple):
        with pytest.raises(EmorayError) as caught:
            run(behaviour, set(range(ROWS)))
        assert caught.value.kind == behaviour.all[0]
    else:
        outcomes, _ = run(behaviour, set(range(ROWS)))
        assert {what_became(outcome) for outcome in outcomes} == {behaviour.all}


@pytest.mark.parametrize(
    ("field", "kind"),
    [("response_format", "text_llm"), ("chat_template_kwargs", "text_llm"), ("input_audio", "audio_llm")],
)
def test_a_server_that_knows_no_such_field_ends_the_run_after_five_requests(
    configure, guard, plain_norms, heard, field, kind
):
    def script(body):
        return (400, f"unknown field {field}") if field in json.dumps(body) else (200, GOOD)

    rows = [{**row} for row in heard] * 4
    with serving(script) as (url, seen):
        engine = endpoint_config(url).model_dump(mode="json")
        model = {"model": "some", "revision": "r1", "chat": {"template_kwargs": {"enable_thinking": False}}}
        config = configure({"semantics": {"kind": kind, kind: model, "engine": engine}})
        stage = build_semantics(config.semantics, plain_norms)
        with pytest.raises(EmorayError) as caught:
            run_isolating_rows(stage, rows, guard)
    assert caught.value.kind == "engine_refuses"
    assert f"unknown field {field}" in str(caught.value)
    assert len(seen) == 5


def test_two_rows_that_are_too_long_are_told_from_a_server_that_refuses_all(configure, guard, plain_norms, rows):
    def script(body):
        return (400, "too long") if "Said: u" in body["messages"][1]["content"] else (200, GOOD)

    with serving(script) as (url, seen):
        engine = endpoint_config(url).model_dump(mode="json")
        model = {"model": "some", "revision": "r1"}
        config = configure({"semantics": {"kind": "text_llm", "text_llm": model, "engine": engine}})
        outcomes = run_isolating_rows(build_semantics(config.semantics, plain_norms), rows[:2], guard)
    assert [outcome.error["type"] for outcome in outcomes] == ["refused_by_engine"] * 2
    assert len(seen) == 3
