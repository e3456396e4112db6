"""semantics: what a listener would say about the clip (the text behind ES), by one of several writers."""

from __future__ import annotations

from typing import Any, Literal

from emoray.config import Section
from emoray.engines import EngineConfig
from emoray.stages.base import Row, Value
from emoray.stages.norms import Norms
from emoray.stages.prosodic_features import measure_prosodic_features
from emoray.stages.semantics.cues import describe
from emoray.stages.semantics.language_model import AudioLlmSemantics, LanguageModelConfig, TextLlmSemantics
from emoray.stages.semantics.record import Semantics


class CuesConfig(Section):
    """Measured prosody in words.

    Attributes:
        against: Whose norms the clip is compared with: the `speaker`'s, or the `corpus`'s (an ablation).
    """

    against: Literal["speaker", "corpus"]


class SemanticsConfig(Section):
    """Which writer.

    Attributes:
        kind: `cues` needs no model; `text_llm` reads the transcript and the cues; `audio_llm` hears the clip as well.
        cues: Options of `cues`, and of those that the language models read.
        text_llm: The language model.
        audio_llm: The audio language model.
        engine: What runs the model.
    """

    kind: Literal["cues", "text_llm", "audio_llm"]
    cues: CuesConfig
    text_llm: LanguageModelConfig
    audio_llm: LanguageModelConfig
    engine: EngineConfig


class CuesSemantics(Semantics):
    """Writes from measured prosody; reads the transcript for the speaking rate only, never for its words.

    Fields of the record that nothing was measured for (emotion, attitude, intention …) are null.
    """

    version = 2
    requires = ("prosody",)
    uses = ("transcribe",)
    needs_norms = True

    def __init__(self, config: CuesConfig, norms: Norms | None) -> None:
        self.config = config
        self.norms = norms

    def options(self) -> dict[str, Any]:
        """Kind and whose norms."""
        return {"kind": "cues", **self.config.model_dump(mode="json")}

    def run(self, rows: list[Row]) -> list[Value]:
        """Describe each clip."""
        assert self.norms is not None
        values: list[Value] = []
        unsaid = dict.fromkeys(field.name for field in self.value_type)
        for row in rows:
            speaker = row.get("speaker_id") if self.config.against == "speaker" else None
            measures = measure_prosodic_features(row["prosody"], row.get("transcribe"))
            cues = describe(measures, self.norms.for_speaker(speaker))
            said = {"vocal_delivery": cues.vocal_delivery, "summary": cues.summary, "text": cues.text}
            values.append({**unsaid, **said})
        return values


def build_semantics(config: SemanticsConfig, norms: Norms | None) -> Semantics:
    """The writer that the configuration names.

    Raises:
        ConfigError: Its prompt cannot be used.
    """
    if config.kind == "cues":
        return CuesSemantics(config.cues, norms)
    if config.kind == "text_llm":
        return TextLlmSemantics(config.text_llm, config.engine, norms, against=config.cues.against)
    return AudioLlmSemantics(config.audio_llm, config.engine, norms, against=config.cues.against)
