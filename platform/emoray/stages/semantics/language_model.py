"""Semantics by a language model: `text_llm` reads transcript and measured delivery, `audio_llm` hears the clip.

Decoding is held to the record's schema. An answer that still cannot be used is shown to the model once, with what is
wrong with it; a second such answer is that row's error.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from emoray.config import Section
from emoray.engines import Answer, Chat, Engine, EngineConfig, Question, Reply, open_engine
from emoray.engines.acceptance import answer_or_refuse
from emoray.errors import ConfigError, RefusedError, StageError
from emoray.stages.base import WAVEFORM, Row, Value
from emoray.stages.embed import word_spans
from emoray.stages.model_files.weights import model_folder, revision
from emoray.stages.norms import Norms
from emoray.stages.prosodic_features import measure_prosodic_features
from emoray.stages.semantics.answers import UnusableAnswerError, read_record
from emoray.stages.semantics.cues import describe
from emoray.stages.semantics.decoding import check_compiles, check_length
from emoray.stages.semantics.prompt import read_chat_template, read_prompt
from emoray.stages.semantics.record import Semantics, decoding_schema, semantics_value

#: So many rows without one usable answer are no accident.
MIN_UNUSABLE_ROWS = 8
#: Configured writers that have given a record in this process.
_proven: set[str] = set()


class ChatConfig(Section):
    """How the conversation becomes the model's prompt.

    Attributes:
        template: A Jinja template in place of the model's own, as the path of a .jinja file or as its text; null for
            the model's. A server must allow it (`vllm serve --trust-request-chat-template`).
        template_kwargs: Arguments of the template, for example {enable_thinking: false}. Only vLLM's server takes them.
        system_turn: Where the instructions go: into a system turn (`keep`), to the beginning of the user's turn
            (`fold`), or `auto`: into the user's turn if the template drops or refuses a system turn (the model's
            template and that of a vLLM server are tried; other servers are taken to have a system turn).
    """

    template: str | None
    template_kwargs: dict[str, Any]
    system_turn: Literal["auto", "keep", "fold"]


class LanguageModelConfig(Section):
    """A language model as a writer.

    Attributes:
        model: Hugging Face name or folder; for an endpoint, the name that it serves.
        revision: Commit or tag on the hub: that revision is loaded, and names the weights in the fingerprint; best a
            whole commit, as tags can move. For a folder or an endpoint it is a name of your own. null loads the newest,
            and the fingerprint takes a hash of the weights (which are not fetched for it).
        adapter: A LoRA adapter for it, as Hugging Face name or folder; null without one. An endpoint serves an adapter
            under a name of its own: that is the `model` then.
        chat: How the conversation becomes the prompt.
        prompt: A shipped prompt's name, or the path of a file of your own.
        max_tokens: Longest answer, thoughts included.
        phrase_characters: Longest short field of the record (at most 80).
        sentence_characters: Longest sentence of the record (at most 600).
    """

    model: str
    revision: str | None
    adapter: str | None
    chat: ChatConfig
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

    Raises:
        ConfigError: The prompt or the chat template cannot be used, or `max_tokens` is too small for the bounds.
    """

    resources = "actor"

    def __init__(self, config: LanguageModelConfig, engine: EngineConfig, kind: str, fields: set[str]) -> None:
        self.config = config
        self.engine = engine
        self.kind = kind
        self.gpus = engine.gpus
        self.rows_at_a_time = engine.rows_at_a_time
        self.waits = engine.kind == "endpoint"
        # Read here and not by the worker, which may not see the files.
        self.prompt = read_prompt(config.prompt, fields)
        chat = config.chat
        template = read_chat_template(chat.template) if chat.template is not None else None
        self.chat = Chat(template, chat.template_kwargs, chat.system_turn)
        self.schema = decoding_schema(config.phrase_characters, config.sentence_characters)
        check_length(self.schema, config.max_tokens, f"annotate.semantics.{kind}")
        if config.adapter is not None and engine.kind == "endpoint":
            raise ConfigError(
                "an endpoint loads no adapter",
                where=f"annotate.semantics.{kind}.adapter",
                remedy="Start the server with it (vllm serve --lora-modules NAME=FOLDER); that name is the model then",
                kind="bad_adapter",
            )

    def options(self) -> dict[str, Any]:
        """Weights, prompt, chat template and bounds; neither the engine nor what it runs on."""
        config = self.config
        if config.revision is not None:
            weights = f"{config.model}@{config.revision}"
        elif self.engine.kind == "endpoint":
            raise ConfigError(
                "the weights behind an endpoint cannot be hashed",
                where=f"annotate.semantics.{self.kind}.revision",
                remedy="Name their revision, for example the hub's commit; under another name all is computed again",
                kind="no_revision",
            )
        else:
            weights = revision(config.model)
        bounds = config.model_dump(include={"max_tokens", "phrase_characters", "sentence_characters"})
        chat: dict[str, Any] = {"kwargs": dict(self.chat.template_kwargs), "system_turn": self.chat.system_turn}
        if self.chat.template is not None:
            chat["template"] = hashlib.sha256(self.chat.template.encode()).hexdigest()
        options = {"kind": self.kind, "weights": weights, "prompt": self.prompt.options(), "chat": chat, **bounds}
        if config.adapter is not None:
            options["adapter"] = revision(config.adapter)
        return options

    def run(self, rows: list[Row]) -> Sequence[Value | Exception]:
        """Ask for all rows at once, and once more for those whose answer cannot be used.

        Returns:
            Per row its value; or a StageError: bad_record, answer_cut_off, or what the engine gave as the row's own; or
            a TransientError: the engine had no time for this row.

        Raises:
            TransientError: See `Engine.answer`.
            ServiceError: See `Engine.answer`.
            RefusedError: See `Engine.answer`; or no row of the first batches has a usable answer.
        """
        engine = self._open()
        questions = [self.question(row) for row in rows]
        values = [_value(answer) for answer in self._ask(engine, questions)]
        bad = {place: value for place, value in enumerate(values) if isinstance(value, _Unusable) and value.answer}
        if bad:
            again = [
                questions[place].followed_by(first.answer, self.prompt.repair.format(problem=first.problem))
                for place, first in bad.items()
            ]
            for place, answer in zip(bad, self._ask(engine, again), strict=True):
                values[place] = _value(answer)
        outcomes = [value.error(self.kind) if isinstance(value, _Unusable) else value for value in values]
        self._check_first(outcomes)
        return outcomes

    @abstractmethod
    def question(self, row: Row) -> Question:
        """What the model is asked about a row."""

    def _open(self) -> Engine:
        config = self.config
        if self.engine.kind == "endpoint":
            return open_engine(config.model, self.engine)
        check_compiles(json.dumps(self.schema), f"annotate.semantics.{self.kind}")
        remote_code = self.engine.vllm.trust_remote_code
        folder = model_folder(config.model, config.revision, remote_code=remote_code)
        adapter = str(model_folder(config.adapter)) if config.adapter is not None else None
        return open_engine(str(folder), self.engine, adapter)

    def _ask(self, engine: Engine, questions: list[Question]) -> list[Answer]:
        ask = engine.answer if self._name() in _proven else answer_or_refuse(engine)
        return ask(questions, self.schema, self.config.max_tokens, self.chat)

    def _check_first(self, outcomes: Sequence[Value | Exception]) -> None:
        """End the run if it begins with nothing but answers that cannot be used: so would the other rows' be."""
        if self._name() in _proven:
            return
        if any(not isinstance(outcome, Exception) for outcome in outcomes):
            _proven.add(self._name())
            return
        kinds = Counter(outcome.kind for outcome in outcomes if isinstance(outcome, StageError))
        if kinds.total() == len(outcomes) >= MIN_UNUSABLE_ROWS and len(kinds) == 1:
            first = outcomes[0]
            assert isinstance(first, StageError)
            raise RefusedError(
                f"none of the first {len(outcomes)} rows has a usable answer ({first.kind}): {first.what}",
                where=f"annotate.semantics.{self.kind}",
                remedy=first.remedy or "Take another model, prompt or server; what is done is kept",
                kind="no_usable_answer",
            )

    def _name(self) -> str:
        return f"{self.kind} {self.config.model_dump_json()} {self.engine.model_dump_json()}"


class TextLlmSemantics(LanguageModelSemantics):
    """Reads the transcript, emphasised words in capitals, and the measured delivery in words.

    Args:
        config: Model and prompt, which may name `transcript`, `language` and `delivery`.
        engine: What runs the model.
        norms: What the delivery is measured against.
        against: Whose norms: the `speaker`'s or the `corpus`'s.
    """

    version = 3
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
            delivery=cues.text,
        )
        return Question(self.prompt.system, user)


class AudioLlmSemantics(LanguageModelSemantics):
    """Hears the clip, and nothing else.

    Args:
        config: Model and prompt, which may name nothing.
        engine: What runs the model.
    """

    version = 2
    requires = (WAVEFORM,)

    def __init__(self, config: LanguageModelConfig, engine: EngineConfig) -> None:
        super().__init__(config, engine, "audio_llm", set())

    def question(self, row: Row) -> Question:
        """The clip and what to do with it."""
        return Question(self.prompt.system, self.prompt.user.format(), audio=row[WAVEFORM])


class _Unusable:
    """An answer that is no record."""

    def __init__(self, answer: str, problem: str, *, cut_off: bool) -> None:
        self.answer = answer
        self.problem = problem
        self.cut_off = cut_off

    def error(self, kind: str) -> StageError:
        if self.cut_off:
            return StageError(
                f"the answer is cut off at max_tokens; it begins {self.answer[:120]!r}",
                remedy=f"Raise annotate.semantics.{kind}.max_tokens; if the model thinks, switch that off"
                " (chat.template_kwargs) or leave room for it",
                kind="answer_cut_off",
            )
        return StageError(
            f"the model gave no valid record, twice: {self.problem}; it said {self.answer[:120]!r}",
            remedy="Take another model or prompt",
            kind="bad_record",
        )


def _value(answer: Answer) -> Value | _Unusable | Exception:
    if not isinstance(answer, Reply):
        return answer
    try:
        return semantics_value(read_record(answer.text))
    except UnusableAnswerError as error:
        problem = "it is cut off, too long" if answer.cut_off else error.problem
        return _Unusable(error.answer, problem, cut_off=answer.cut_off)


def _with_capitals(text: str, emphasis: Mapping[str, Any] | None) -> str:
    words = emphasis["words"] if emphasis else []
    spans = word_spans(text, [word["word"] for word in words])
    # From the end, as some letters get longer: the places of the words before stay what they are.
    for word, span in reversed(list(zip(words, spans, strict=True))):
        if word["emphasised"] and span is not None:
            start, end = span
            text = text[:start] + text[start:end].upper() + text[end:]
    return text
