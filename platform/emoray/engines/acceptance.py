"""Whether an engine takes what it is asked: found out at the first questions, before thousands of clips are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emoray.audio.io import AUDIO_HZ
from emoray.engines.client import Answer, Chat, Engine, Question
from emoray.errors import RefusedError, ServiceError, StageError

#: Questions that are asked before the others.
FIRST = 4
#: A clip and a text that no engine can find too long or too short.
_CONTROL_TEXT, _CONTROL_S = "Describe this recording.", 2


def answer_or_refuse(engine: Engine) -> Callable[[Sequence[Question], dict[str, Any] | None, int, Chat], list[Answer]]:
    """`Engine.answer`, but a few questions come first.

    If all of these are refused, a control question tells whose fault it is: the same instructions and schema with a
    short text and, if the questions have sound, a short clip. If that is refused too, so will be every other.

    Args:
        engine: The engine.
    """

    def answer(
        questions: Sequence[Question], schema: dict[str, Any] | None, max_tokens: int, chat: Chat
    ) -> list[Answer]:
        try:
            answers = engine.answer(questions[:FIRST], schema, max_tokens, chat)
        except ServiceError as error:
            if error.kind != "engine_failed":
                raise
            raise RefusedError(error.what, where=error.where, remedy=error.remedy, kind=error.kind) from error
        refused = [one for one in answers if isinstance(one, StageError) and one.kind == "refused_by_engine"]
        if refused and len(refused) == len(answers):
            control = engine.answer([_control(questions[0])], schema, max_tokens, chat)[0]
            if isinstance(control, StageError) and control.kind == "refused_by_engine":
                raise RefusedError(
                    f"a question of two words and two seconds is refused too: {control.what}",
                    remedy="Check that the model hears (for audio_llm), and that the server knows response_format"
                    " json_schema and the fields of engine.endpoint.extra_body; what is done is kept",
                )
        return answers + (engine.answer(questions[FIRST:], schema, max_tokens, chat) if questions[FIRST:] else [])

    return answer


def _control(question: Question) -> Question:
    noise = np.random.default_rng(0).normal(0.0, 0.05, _CONTROL_S * AUDIO_HZ).astype(np.float32)
    audio = None if question.audio is None else noise
    return replace(question, user=_CONTROL_TEXT, audio=audio, exchange=())
