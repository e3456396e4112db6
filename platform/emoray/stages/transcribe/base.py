"""What all transcribers give: text, words with or without times, language, confidence."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pyarrow as pa

from emoray.errors import StageError
from emoray.schema import WORD
from emoray.stages.base import Row, Stage, Value

#: Where word times come from.
Times = Literal["corpus", "aligned", "recogniser", "none"]


class Transcribe(Stage):
    """Base of the transcribers.

    The value: text; words as in `emoray.schema.WORD` (`emphasised` stays null: a corpus's mark is truth to be judged
    against, not an input; times are null where `times` is `none`, and for a single word that cannot be aligned);
    language; confidence 0..1 where the recogniser gives one; times, the source of the word times.
    """

    name = "transcribe"
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            ("text", pa.string()),
            ("words", pa.list_(WORD)),
            ("language", pa.string()),
            ("confidence", pa.float64()),
            ("times", pa.string()),
        ]
    )


def make_word(word: str, start_s: float | None = None, end_s: float | None = None) -> dict[str, Any]:
    """A word as in `emoray.schema.WORD`."""
    return {"word": word, "start_s": start_s, "end_s": end_s, "emphasised": None}


def make_value(
    text: str, words: list[dict[str, Any]], language: str | None, confidence: float | None, times: Times
) -> Value:
    """A transcriber's value."""
    return {"text": text, "words": words, "language": language, "confidence": confidence, "times": times}


def nothing_heard(row: Row, why: str) -> StageError:
    """The error of a clip in which no word was understood."""
    return StageError(
        why,
        where=row["utterance_id"],
        remedy="Listen to the clip; give a transcript if it contains speech",
        kind="empty_transcript",
    )
