"""Progress where there is no terminal: plain lines, and none for what is over quickly."""

from __future__ import annotations

import time

import pytest

from emoray_jobs import progress
from emoray_jobs.progress import spinner, track


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    monkeypatch.setattr(progress, "SILENCE_S", 0.1)


def wait_for(capsys, lines):
    """What is printed until there are so many lines."""
    text = ""
    while text.count("\n") < lines:
        text += capsys.readouterr().err
        time.sleep(0.01)  # between two looks at what a thread prints
    return text.splitlines()


def test_lines_come_after_two_seconds_and_then_every_five(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "SILENCE_S", 3600.0)
    with track("counting", "sheep") as advance:
        for done, clock[0] in enumerate((0.5, 1.9, 2.1, 3.0, 7.2), start=1):
            advance(done, 5)
        clock[0] = 8.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["counting: 3 of 5 sheep, 2 s", "counting: 5 of 5 sheep, 7 s", "counting: 5 of 5 sheep, 8 s"]


@pytest.mark.usefixtures("impatient")
def test_a_job_without_news_says_that_it_goes_on(capsys):
    with track("describing", "utterances") as advance:
        advance(3, 60)
        first, second, *_ = wait_for(capsys, 2)
        assert first.startswith("describing: 3 of 60 utterances, ")
        assert second.startswith("describing: 3 of 60 utterances, ")


@pytest.mark.usefixtures("impatient")
def test_a_job_of_unknown_length_says_that_it_goes_on(capsys):
    with spinner("loading"):
        begun, later, *_ = wait_for(capsys, 2)
        assert begun == "loading …"
        assert later.startswith("loading: ")


@pytest.mark.usefixtures("impatient")
def test_the_end_is_said_and_then_nothing_more(capsys):
    with track("describing", "utterances") as advance:
        advance(60, 60)
    assert capsys.readouterr().err.splitlines()[-1].startswith("describing: 60 of 60 utterances, ")
    time.sleep(0.3)  # three times as long as it would take
    assert not capsys.readouterr().err


def test_what_is_over_quickly_says_nothing(capsys):
    with track("describing", "utterances") as advance:
        advance(60, 60)
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("impatient")
def test_a_job_that_fails_says_no_more(capsys):
    def fail():
        with track("describing", "utterances") as advance:
            advance(1, 60)
            capsys.readouterr()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not capsys.readouterr().err
