"""Finds the record, or the paragraph, in what a language model said: among thoughts, in a fence, between sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from pydantic import ValidationError

from emoray.stages.semantics.record import SemanticsRecord

#: Ends of thoughts, as models write them. What precedes the last one is no answer, whether it shows where it begins or
#: not (some templates open the thought in the prompt).
_THOUGHT_ENDS = re.compile(
    r"</think(?:ing)?>|</reason(?:ing)?>|◁/think▷|\[/THINK\]|<\|channel\|>final(?:<\|message\|>)?", re.IGNORECASE
)
_THOUGHT_BEGINS = re.compile(r"<think(?:ing)?>|<reason(?:ing)?>|◁think▷|\[THINK\]|<\|channel\|>analysis", re.IGNORECASE)


class UnusableAnswerError(Exception):
    """An answer that holds no record.

    Attributes:
        answer: What the model said, without its thoughts.
        problem: What is wrong with it, for the model to read.
    """

    def __init__(self, answer: str, problem: str) -> None:
        super().__init__(problem)
        self.answer = answer
        self.problem = problem


def read_record(answer: str) -> SemanticsRecord:
    """The record in an answer: its last object that is one, as an object may be repeated, or drafted first.

    Raises:
        UnusableAnswerError: There is none.
    """
    said = without_thoughts(answer)
    problem = "there is no JSON object in it"
    for found in reversed(list(_objects(said))):
        try:
            return SemanticsRecord.model_validate(found)
        except ValidationError as error:
            if problem.startswith("there is no"):
                first = error.errors(include_url=False)[0]
                place = ".".join(str(part) for part in first["loc"])
                problem = f"{place}: {first['msg']}" if place else first["msg"]
    raise UnusableAnswerError(said, problem)


def read_paragraph(answer: str, longest: int) -> str:
    """The paragraph in an answer, on one line, of `longest` characters at most.

    Raises:
        UnusableAnswerError: There is none, or it is too long.
    """
    said = " ".join(without_thoughts(answer).split())
    if not said:
        raise UnusableAnswerError(said, "it is empty")
    if len(said) > longest:
        raise UnusableAnswerError(said, f"it has {len(said)} characters, more than {longest}")
    return said


def without_thoughts(answer: str) -> str:
    """What a model said after it thought; "" if it thought to the end."""
    *_, said = _THOUGHT_ENDS.split(answer)
    return "" if _THOUGHT_BEGINS.search(said) else said.strip()


def _objects(text: str) -> Iterator[dict[str, object]]:
    """The JSON objects in a text, from left to right, none of them inside another."""
    decoder = json.JSONDecoder(strict=False)  # line ends inside strings are taken
    position = text.find("{")
    while position >= 0:
        try:
            found, end = decoder.raw_decode(text, position)
        except ValueError:
            end = position + 1
        else:
            yield found
        position = text.find("{", end)
