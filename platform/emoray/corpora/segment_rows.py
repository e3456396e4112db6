"""What an utterance takes over from the recording that it was cut from: speaker, labels, split, its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emoray.schema import Row


def utterances(row: Row, value: Mapping[str, Any]) -> Iterator[Row]:
    """The utterances of a recording, as rows of the utterances table.

    `value` is the recording's value of the stage `segment`: its spans count from the beginning of the recording.
    """
    origin_s = row["start_s"] or 0.0
    for turn, span in enumerate(value["spans"]):
        start_s = origin_s + span["start_ms"] / 1000
        end_s = origin_s + span["end_ms"] / 1000
        utterance = row | {
            "utterance_id": f"{row['utterance_id']}@{round(1000 * start_s):08d}",
            "start_s": start_s,
            "end_s": end_s,
            "duration_s": end_s - start_s,
            "transcript": None,
            "words": None,
        }
        if row["dialogue_id"] is None and row["turn"] is None:
            utterance |= {"dialogue_id": row["utterance_id"], "turn": turn}
        if timed(row):
            words = list(_words(row["words"], span["start_ms"] / 1000, span["end_ms"] / 1000))
            utterance |= {"transcript": " ".join(word["word"] for word in words) or None, "words": words or None}
        yield utterance


def timed(row: Row) -> bool:
    """Whether a row has words, all with times."""
    return bool(row["words"]) and all(w["start_s"] is not None and w["end_s"] is not None for w in row["words"])


def _words(words: Sequence[Row], start_s: float, end_s: float) -> Iterator[Row]:
    """The words whose middle falls into a span, with times from its beginning."""
    for word in words:
        if start_s <= (word["start_s"] + word["end_s"]) / 2 < end_s:
            begin_s, finish_s = max(word["start_s"], start_s) - start_s, min(word["end_s"], end_s) - start_s
            yield word | {"start_s": begin_s, "end_s": finish_s}
