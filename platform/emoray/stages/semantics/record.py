"""The record that every semantics writer gives (ES of docs/models.md), and the text that is embedded of it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from emoray.stages.base import Stage, Value
from emoray.stages.semantics.decoding import text_pattern

PHRASE_CHARACTERS = 80
SENTENCE_CHARACTERS = 600

Phrase = Annotated[str, Field(min_length=1, max_length=PHRASE_CHARACTERS)]
Sentence = Annotated[str, Field(min_length=1, max_length=SENTENCE_CHARACTERS)]

INTENSITIES = ("barely", "slightly", "moderately", "clearly", "strongly", "extremely")


class SemanticsRecord(BaseModel):
    """What a listener would say about a clip.

    Strings are bounded, so that a language model under structured decoding cannot run on for ever. The order of the
    fields is the order in which they are decoded: what is heard comes before what follows from it, so that the verdict
    is written with the evidence in view (docs/decisions/0029).

    Attributes:
        vocal_delivery: How it is said.
        intention: What the speaker is after.
        attitude: Towards the listener or the matter.
        valence: How pleasant, in words.
        arousal: How activated, in words.
        dominance: How dominant, in words.
        emotion: The emotion, in a word or two.
        intensity: Its strength, 0..1.
        summary: The gist, in a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocal_delivery: Sentence
    intention: Phrase
    attitude: Phrase
    valence: Phrase
    arousal: Phrase
    dominance: Phrase
    emotion: Phrase
    intensity: Annotated[float, Field(ge=0.0, le=1.0)]
    summary: Sentence


def render_semantics(record: SemanticsRecord) -> str:
    """The record as the text that is embedded.

    The delivery comes first, so that a text encoder with a short limit cuts the verdict and not the evidence, and the
    short fields follow in few words and without their names: the embedding is a mean over tokens, and every token that
    says the same for all clips dilutes those that tell them apart.
    """
    strength = INTENSITIES[min(len(INTENSITIES) - 1, int(record.intensity * len(INTENSITIES)))]
    return (
        f"{record.vocal_delivery} {record.summary} {record.valence}, {record.arousal}, {record.dominance}."
        f" {strength.capitalize()} {record.emotion}, {record.attitude}, {record.intention}."
    )


def decoding_schema(phrase_characters: int, sentence_characters: int) -> dict[str, Any]:
    """The record's JSON schema as an engine's decoder is held to it: narrower, so that no answer runs on for ever.

    Strings are printable ASCII without escapes, of bounded length; the number is one of five, as a decoder would spell
    out any number of digits.
    """
    fields: dict[str, Any] = {}
    for name, field in SemanticsRecord.model_json_schema()["properties"].items():
        if field["type"] == "number":
            fields[name] = {"enum": [0.0, 0.25, 0.5, 0.75, 1.0]}
        else:
            longest = min(
                field["maxLength"],
                phrase_characters if field["maxLength"] == PHRASE_CHARACTERS else sentence_characters,
            )
            fields[name] = {"type": "string", "pattern": text_pattern(longest)}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


class Semantics(Stage):
    """Base of the writers: the record's fields and `text`, which is what gets embedded.

    `value_type` is that of `cues`, which has no words for valence, arousal and dominance: rows that it wrote before
    there were such fields stay as good as new ones.
    """

    name = "semantics"
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            ("emotion", pa.string()),
            ("intensity", pa.float64()),
            ("attitude", pa.string()),
            ("intention", pa.string()),
            ("vocal_delivery", pa.string()),
            ("summary", pa.string()),
            ("text", pa.string()),
        ]
    )


#: Type of what a language model writes; every field may be null. `texts` are those of all prompts, null for one prompt.
WRITTEN_TYPE = pa.struct(
    [
        *((name, pa.float64() if name == "intensity" else pa.string()) for name in SemanticsRecord.model_fields),
        ("text", pa.string()),
        ("texts", pa.list_(pa.string())),
    ]
)


def semantics_value(record: SemanticsRecord) -> Value:
    """The stage's value for a record."""
    return {**record.model_dump(), "text": render_semantics(record), "texts": None}


def paragraph_value(paragraph: str) -> Value:
    """The stage's value for free text: no field of the record but `text`."""
    return {**dict.fromkeys(SemanticsRecord.model_fields), "text": paragraph, "texts": None}
