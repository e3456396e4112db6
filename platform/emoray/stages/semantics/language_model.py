"""Semantics by a language model: `text_llm` reads transcript and measured delivery, `audio_llm` hears the clip.

Decoding is held to the record's schema. An answer that still cannot be used is shown to the model once, with what is
wrong with it; a second such answer is that row's error.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from emoray.config import Section
from emoray.engines import Answer, Engine, EngineConfig, Question, open_engine
from emoray.errors import ConfigError, StageError
from emoray.stages.base import WAVEFORM, Row, Value
from emoray.stages.embed import word_spans
from emoray.stages.norms import Norms
from emoray.stages.prosodic_features import measure_prosodic_features
from emoray.stages.semantics.cues import describe
from emoray.stages.semantics.prompt import read_prompt
from emoray.stages.semantics.record import Semantics, SemanticsRecord, decoding_schema, semantics_value
from emoray.stages.weights import model_folder, revision


class LanguageModelConfig(Section):
    """A language model as a writer.

    Attributes:
        model: Hugging Face name or folder; for an endpoint, the name that it serves.
        revision: Name of the weights' revision, for the fingerprint; null hashes the weights, which must then be here.
        prompt: A shipped prompt's name, or the path of a file of your own.
        max_tokens: Longest answer.
        phrase_characters: Longest short field of the record (at most 80).
        sentence_characters: Longest sentence of the record (at most 600).
    """

    model: str
    revision: str | None
    prompt: str
    max_tokens: int
    phrase_characters: int
    sentence_characters: int


class LanguageModelSemantics(Semantics):
    """Base of the writers that ask a language model.

    Args:
        config: Model and prompt.
        engine: What runs the model; not part of the fingerprint.
        kind: Name of the writer.
        fields: What the prompt may name.
    """

    resources = "actor"

    def __init__(self, config: LanguageModelConfig, engine: EngineConfig, kind: str, fields: set[str]) -> None:
        self.config = config
        self.engine = engine
        self.kind = kind
        self.gpus = engine.gpus
        self.rows_at_a_time = engine.rows_at_a_time
        self.waits = engine.kind == "endpoint"
        # Read here and not by the worker, which may not see the file.
        self.prompt = read_prompt(config.prompt, fields)

    def options(self) -> dict[str, Any]:
        """Weights, prompt and bounds; neither the engine nor what it runs on."""
        config = self.config
        if config.revision is not None:
            weights = f"{config.model}@{config.revision}"
        elif self.engine.kind == "endpoint":
            raise ConfigError(
                "the weights behind an endpoint cannot be hashed",
                where=f"annotate.semantics.{self.kind}.revision",
                remedy="Name their revision, for example the hub's commit; another name computes anew",
            )
        else:
            weights = revision(config.model)
        bounds = config.model_dump(include={"max_tokens", "phrase_characters", "sentence_characters"})
        return {"kind": self.kind, "weights": weights, "prompt": self.prompt.options(), **bounds}

    def run(self, rows: list[Row]) -> Sequence[Value | Exception]:
        """Ask for all rows at once, and once more for those whose answer cannot be used.

        Returns:
            Per row its value, or a StageError: `bad_record`, or what the engine refused it for.

        Raises:
            TransientError: See `Engine.answer`.
            ServiceError: See `Engine.answer`.
        """
        local = self.engine.kind == "vllm"
        engine = open_engine(str(model_folder(self.config.model)) if local else self.config.model, self.engine)
        questions = [self.question(row) for row in rows]
        values = [_value(answer) for answer in self._ask(engine, questions)]
        bad = [place for place, value in enumerate(values) if isinstance(value, _Unusable)]
        if bad:
            again = []
            for place in bad:
                first = values[place]
                assert isinstance(first, _Unusable)
                objection = self.prompt.repair.format(problem=first.problem)
                again.append(questions[place].followed_by(first.answer, objection))
            for place, answer in zip(bad, self._ask(engine, again), strict=True):
                values[place] = _value(answer)
        return [value.error() if isinstance(value, _Unusable) else value for value in values]

    @abstractmethod
    def question(self, row: Row) -> Question:
        """What the model is asked about a row."""

    def _ask(self, engine: Engine, questions: list[Question]) -> list[Answer]:
        config = self.config
        schema = decoding_schema(config.phrase_characters, config.sentence_characters)
        return engine.answer(questions, schema, config.max_tokens)


class TextLlmSemantics(LanguageModelSemantics):
    """Reads the transcript, emphasised words in capitals, and the measured delivery in words.

    Args:
        config: Model and prompt, which may name `transcript`, `language` and `delivery`.
        engine: What runs the model.
        norms: What the delivery is measured against.
        against: Whose norms: the `speaker`'s or the `corpus`'s.
    """

    version = 1
    requires = ("transcribe", "prosody")
    uses = ("emphasis",)
    needs_norms = True

    def __init__(
        self,
        config: LanguageModelConfig,
        engine: EngineConfig,
        norms: Norms | None,
        *,
        against: Literal["speaker", "corpus"],
    ) -> None:
        super().__init__(config, engine, "text_llm", {"transcript", "language", "delivery"})
        self.norms = norms
        self.against = against

    def options(self) -> dict[str, Any]:
        """Weights, prompt, bounds, and whose norms."""
        return {**super().options(), "against": self.against}

    def question(self, row: Row) -> Question:
        """The transcript with its emphasis, and the cues."""
        assert self.norms is not None
        transcribe = row["transcribe"]
        expected = self.norms.for_speaker(row.get("speaker_id") if self.against == "speaker" else None)
        cues = describe(measure_prosodic_features(row["prosody"], transcribe), expected)
        user = self.prompt.user.format(
            transcript=_with_capitals(transcribe["text"], row.get("emphasis")),
            language=transcribe["language"] or "unknown",
            delivery=f"{cues.vocal_delivery} {cues.summary}",
        )
        return Question(self.prompt.system, user)


class AudioLlmSemantics(LanguageModelSemantics):
    """Hears the clip, and nothing else.

    Args:
        config: Model and prompt, which may name nothing.
        engine: What runs the model.
    """

    version = 1
    requires = (WAVEFORM,)

    def __init__(self, config: LanguageModelConfig, engine: EngineConfig) -> None:
        super().__init__(config, engine, "audio_llm", set())

    def question(self, row: Row) -> Question:
        """The clip and what to do with it."""
        return Question(self.prompt.system, self.prompt.user.format(), audio=row[WAVEFORM])


class _Unusable:
    """An answer that is no record."""

    def __init__(self, answer: str, problem: str) -> None:
        self.answer = answer
        self.problem = problem

    def error(self) -> StageError:
        return StageError(
            f"the model gave no valid record, twice: {self.problem}; it said {self.answer[:120]!r}",
            remedy="Raise max_tokens if it is cut off; else take another model or prompt",
            kind="bad_record",
        )


def _value(answer: Answer) -> Value | _Unusable | Exception:
    if isinstance(answer, Exception):
        return answer
    # An endpoint may not hold the model to the schema: what stands around the object is left out.
    start, end = answer.find("{"), answer.rfind("}")
    try:
        return semantics_value(
            SemanticsRecord.model_validate_json(answer[start : end + 1] if 0 <= start < end else answer)
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return _Unusable(answer, f"{place}: {first['msg']}" if place else first["msg"])


def _with_capitals(text: str, emphasis: Mapping[str, Any] | None) -> str:
    words = emphasis["words"] if emphasis else []
    spans = word_spans(text, [word["word"] for word in words])
    # From the end, as some letters get longer: the places of the words before stay what they are.
    for word, span in reversed(list(zip(words, spans, strict=True))):
        if word["emphasised"] and span is not None:
            start, end = span
            text = text[:start] + text[start:end].upper() + text[end:]
    return text
