"""embed_transcript and embed_semantics: from texts to the vectors LES, GS and ES (docs/models.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from emoray.config import Section
from emoray.stages.base import Row, Stage, Value
from emoray.stages.deviations import deviation_vector, deviations
from emoray.stages.model_files.weights import revision
from emoray.stages.norms import Norms
from emoray.stages.prosodic_features import measure_prosodic_features


class EmbedConfig(Section):
    """The text encoder.

    Attributes:
        model: `minilm` (in a Python package), a folder, or a Hugging Face name.
        les_context: LES from the emphasised words' token states on the full `sentence`, or from these words encoded
            `alone`.
        max_tokens: Longer texts are cut.
        batch_size: Texts per forward pass; not part of the fingerprint.
        device: `auto`, `cpu` or `cuda`; not part of the fingerprint.
        semantics_numbers: Put the measured deviations behind the ES vector (`emoray.stages.deviations`), which
            `model.text_width` then counts too.
    """

    model: str
    les_context: Literal["sentence", "alone"]
    max_tokens: int
    batch_size: int
    device: Literal["auto", "cpu", "cuda"]
    semantics_numbers: bool


class _Embed(Stage):
    """What the stages share that embed texts."""

    resources = "actor"
    weights = "text_encoder"

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config
        self.model = config.model
        self.gpus = int(config.device != "cpu")

    def options(self) -> dict[str, Any]:
        """The encoder's revision (a copy under another name is the same encoder) and length."""
        return {"revision": revision(self.config.model), "max_tokens": self.config.max_tokens}


class EmbedTranscript(_Embed):
    """LES and GS vectors; without emphasis there is no LES."""

    name = "embed_transcript"
    version = 1
    requires = ("transcribe",)
    uses = ("emphasis",)
    value_type: ClassVar[pa.StructType] = pa.struct([("les", pa.list_(pa.float32())), ("gs", pa.list_(pa.float32()))])

    def options(self) -> dict[str, Any]:
        """The encoder's revision and length, and the context of LES."""
        return {**super().options(), "les_context": self.config.les_context}

    def run(self, rows: list[Row]) -> list[Value]:
        """Embed a batch; vectors are float32 (E,)."""
        from emoray.stages.text_encoder import masked_mean, span_mean, text_encoder

        config = self.config
        encoder = text_encoder(config.model, config.device, config.max_tokens)
        texts = [row["transcribe"]["text"] for row in rows]
        marked = [_marked(row.get("emphasis")) for row in rows]
        states = encoder.states(texts, config.batch_size)
        values: list[Value] = [{"les": None, "gs": masked_mean(own)} for own, _ in states]
        stressed = [index for index, words in enumerate(marked) if any(mark for _, mark in words)]
        if config.les_context == "alone":
            phrases = [" ".join(word for word, mark in marked[index] if mark) for index in stressed]
            for index, (own, _) in zip(stressed, encoder.states(phrases, config.batch_size), strict=True):
                values[index]["les"] = masked_mean(own)
            return values
        for index in stressed:
            spans = word_spans(texts[index], [word for word, _ in marked[index]])
            wanted = [span for span, (_, mark) in zip(spans, marked[index], strict=True) if mark and span is not None]
            values[index]["les"] = span_mean(*states[index], wanted)
        return values


class EmbedSemantics(_Embed):
    """ES vectors: masked mean over the semantics' text; of several texts (one per prompt) the mean of their vectors."""

    name = "embed_semantics"
    version = 1
    requires = ("semantics",)
    value_type: ClassVar[pa.StructType] = pa.struct([("es", pa.list_(pa.float32()))])

    def run(self, rows: list[Row]) -> list[Value]:
        """Embed a batch; vectors are float32 (E,)."""
        from emoray.stages.text_encoder import masked_mean, text_encoder

        config = self.config
        encoder = text_encoder(config.model, config.device, config.max_tokens)
        texts = [row["semantics"].get("texts") or [row["semantics"]["text"]] for row in rows]
        states = encoder.states([text for own in texts for text in own], config.batch_size)
        vectors = iter([masked_mean(own) for own, _ in states])
        return [{"es": np.mean([next(vectors) for _ in own], axis=0)} for own in texts]


class EmbedSemanticsWithNumbers(EmbedSemantics):
    """ES vectors with the clip's deviations behind them, whoever wrote the semantics.

    Args:
        norms: What the clip is measured against.
        against: Whose norms: the `speaker`'s or the `corpus`'s.
    """

    uses = ("prosody", "transcribe")
    needs_norms = True

    def __init__(self, config: EmbedConfig, norms: Norms | None, *, against: Literal["speaker", "corpus"]) -> None:
        super().__init__(config)
        self.norms = norms
        self.against = against

    def options(self) -> dict[str, Any]:
        """The encoder's revision and length, and whose norms."""
        return {**super().options(), "numbers_against": self.against}

    def run(self, rows: list[Row]) -> list[Value]:
        """Embed a batch; vectors are float32 (E + DEVIATION_WIDTH,)."""
        values = super().run(rows)
        for row, value in zip(rows, values, strict=True):
            value["es"] = np.concatenate([value["es"], self._numbers(row)])
        return values

    def _numbers(self, row: Row) -> np.ndarray:
        assert self.norms is not None
        if row.get("prosody") is None:
            return deviation_vector({})
        expected = self.norms.for_speaker(row.get("speaker_id") if self.against == "speaker" else None)
        return deviation_vector(deviations(measure_prosodic_features(row["prosody"], row.get("transcribe")), expected))


def word_spans(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """The span of each word in the text, searched in order, case ignored; None for a missing word."""
    folded = text.lower()
    # Some letters change length in lower case, which would shift positions.
    haystack = folded if len(folded) == len(text) else text
    spans: list[tuple[int, int] | None] = []
    position = 0
    for word in words:
        needle = word.lower() if haystack is folded else word
        start = haystack.find(needle, position)
        if start < 0 or not needle:
            spans.append(None)
            continue
        position = start + len(needle)
        spans.append((start, position))
    return spans


def _marked(emphasis: Mapping[str, Any] | None) -> list[tuple[str, bool]]:
    return [(word["word"], bool(word["emphasised"])) for word in emphasis["words"]] if emphasis else []
