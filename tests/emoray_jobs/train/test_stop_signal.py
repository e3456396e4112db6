"""The request to stop: the first signal is noted, the second does what it did before, handlers are put back."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from emoray_jobs.train.stop_signal import StopRequest, stop_request


class KilledError(Exception):
    """What ends a block."""


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.fixture(autouse=True)
def interruptible():
    """A shell starts a background job with SIGINT ignored; these tests are of a job that is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_first_signal_is_noted_and_the_second_ends_at_once(name, capfd):
    before = handlers()
    with stop_request() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.Signals[name])
        assert stop.is_set()
        assert stop.signal == name
        assert handlers() == before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == f"{name}: stopping after a checkpoint; once more ends at once\n"


def test_handlers_are_put_back_also_after_an_error():
    before, during = handlers(), []

    def fail() -> None:
        with stop_request():
            during.extend(handlers())
            raise KilledError

    with pytest.raises(KilledError):
        fail()
    assert handlers() == before
    assert not set(during) & set(before)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_request() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_does_without():
    def ask() -> tuple[StopRequest, list[object]]:
        with stop_request() as stop:
            return stop, handlers()

    with ThreadPoolExecutor(1) as executor:
        stop, during = executor.submit(ask).result()
    assert not stop.is_set()
    assert during == handlers()
