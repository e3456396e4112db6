"""The record that every semantics writer gives (ES of models.md, section 1), and the text that is embedded of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Phrase = Annotated[str, Field(min_length=1, max_length=80)]
Sentence = Annotated[str, Field(min_length=1, max_length=600)]

INTENSITIES = ("barely", "slightly", "moderately", "clearly", "strongly", "extremely")


class SemanticsRecord(BaseModel):
    """What a listener would say about a clip.

    Strings are bounded, so that a language model under structured decoding cannot run on for ever.

    Attributes:
        emotion: The emotion, in a word or two.
        intensity: Its strength, 0..1.
        attitude: Towards the listener or the matter.
        intention: What the speaker is after.
        vocal_delivery: How it is said.
        summary: The gist, in a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    emotion: Phrase
    intensity: Annotated[float, Field(ge=0.0, le=1.0)]
    attitude: Phrase
    intention: Phrase
    vocal_delivery: Sentence
    summary: Sentence


def render_semantics(record: SemanticsRecord) -> str:
    """The record as the text that is embedded.

    The delivery comes first and the short fields follow in few words: the embedding is a mean over tokens, and every
    token that says the same for all clips dilutes those that tell them apart.
    """
    strength = INTENSITIES[min(len(INTENSITIES) - 1, int(record.intensity * len(INTENSITIES)))]
    return (
        f"{record.vocal_delivery} {record.summary}"
        f" {strength.capitalize()} {record.emotion}, {record.attitude}, {record.intention}."
    )
