"""Counts the tokens that a piece of work reads and writes: what a server charges for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from emoray.engines.client import Answer, Reply


@dataclass
class Tokens:
    """Tokens of answered questions.

    Attributes:
        read: Tokens of the questions, repairs included.
        written: Tokens of the answers.
    """

    read: int = 0
    written: int = 0


_counted: ContextVar[Tokens | None] = ContextVar("counted", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Tokens]:
    """Count what is asked inside, in this thread."""
    tokens = Tokens()
    before = _counted.set(tokens)
    try:
        yield tokens
    finally:
        _counted.reset(before)


def count_tokens(answers: Sequence[Answer]) -> None:
    """Add answers to what is being counted, if anything is."""
    tokens = _counted.get()
    if tokens is not None:
        tokens.read += sum(answer.tokens_read for answer in answers if isinstance(answer, Reply))
        tokens.written += sum(answer.tokens_written for answer in answers if isinstance(answer, Reply))
