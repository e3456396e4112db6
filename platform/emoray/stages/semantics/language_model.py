"""Semantics by a language model: `text_llm` reads transcript and measured delivery, `audio_llm` hears the clip as well.

Decoding is held to the record's schema, unless the prompt asks for free text. An answer that still cannot be used is
shown to the model once, with what is wrong with it; a second such answer is that row's error. Several prompts are asked
one after the other, and all their texts are kept: `embed_semantics` takes the mean of their vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from emoray.config import Section
from emoray.engines import Answer, Chat, Engine, EngineConfig, Question, Reply, open_engine
from emoray.engines.acceptance import answer_or_refuse
from emoray.engines.usage import count_tokens
from emoray.errors import ConfigError, RefusedError, StageError
from emoray.stages.base import WAVEFORM, Row, Value
from emoray.stages.model_files.weights import model_folder, revision
from emoray.stages.norms import Norms
from emoray.stages.semantics.answers import UnusableAnswerError, read_paragraph, read_record, without_thoughts
from emoray.stages.semantics.asked import FIELDS, asked_of
from emoray.stages.semantics.decoding import check_compiles, check_length, longest_answer
from emoray.stages.semantics.examples import example_turns
from emoray.stages.semantics.prompt import Prompt, read_chat_template, read_prompt
from emoray.stages.semantics.record import (
    WRITTEN_TYPE,
    Semantics,
    decoding_schema,
    paragraph_value,
    semantics_value,
)

#: Which bounds hold for an answer.
_BOUNDS = {"record": ("phrase", "sentence"), "free_text": ("paragraph",)}
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
            under its own name: that is the `model` then.
        chat: How the conversation becomes the prompt.
        prompts: Shipped prompts' names, or paths of files of your own. Of several, each is asked, at several times the
            cost, and the vectors of their texts are averaged; the record's fields are those of the first. A prompt
            says itself whether it asks for a record or for free text, and brings its examples.
        max_tokens: Longest answer, thoughts included.
        phrase_characters: Longest short field of the record (at most 80).
        sentence_characters: Longest sentence of the record (at most 600).
        paragraph_characters: Longest free text.
    """

    moved_keys: ClassVar[dict[str, str]] = {"prompt": "prompts (a list)"}

    model: str
    revision: str | None
    adapter: str | None
    chat: ChatConfig
    prompts: list[str] = Field(min_length=1)
    max_tokens: int
    phrase_characters: int
    sentence_characters: int
    paragraph_characters: int


class LanguageModelSemantics(Semantics):
    """Base of the writers that ask a language model.

    Args:
        config: Model and prompts, which may name `transcript`, `language` and `delivery`.
        engine: What runs the model; not part of the fingerprint.
        norms: What the delivery is measured against.
        against: Whose norms: the `speaker`'s or the `corpus`'s.

    Raises:
        ConfigError: A prompt or the chat template cannot be used, or `max_tokens` is too small for the bounds.
    """

    kind: ClassVar[str]
    needs_norms = True
    resources = "actor"
    value_type: ClassVar[pa.StructType] = WRITTEN_TYPE

    def __init__(
        self,
        config: LanguageModelConfig,
        engine: EngineConfig,
        norms: Norms | None,
        *,
        against: Literal["speaker", "corpus"],
    ) -> None:
        self.config = config
        self.model = config.model
        self.engine = engine
        self.norms = norms
        self.against = against
        self.gpus = engine.gpus
        self.rows_at_a_time = engine.rows_at_a_time
        self.waits = engine.kind == "endpoint"
        kind = self.kind
        # Read here and not by the worker, which may not see the files.
        self.prompts = [read_prompt(name, set(FIELDS)) for name in config.prompts]
        self.schema = decoding_schema(config.phrase_characters, config.sentence_characters)
        longest = {"record": longest_answer(self.schema), "free_text": config.paragraph_characters}
        for form in sorted({prompt.form for prompt in self.prompts}):
            check_length(longest[form], config.max_tokens, f"annotate.semantics.{kind}")
        hears = WAVEFORM in self.requires
        self._examples = [
            example_turns(prompt, name, hears=hears, longest=config.paragraph_characters)
            for prompt, name in zip(self.prompts, config.prompts, strict=True)
        ]
        chat = config.chat
        template = read_chat_template(chat.template) if chat.template is not None else None
        self.chat = Chat(template, chat.template_kwargs, chat.system_turn)
        if config.adapter is not None and engine.kind == "endpoint":
            raise ConfigError(
                "an endpoint loads no adapter",
                where=f"annotate.semantics.{kind}.adapter",
                remedy="Start the server with it (vllm serve --lora-modules NAME=FOLDER); that name is the model then",
                kind="bad_adapter",
            )

    def options(self) -> dict[str, Any]:
        """Weights, prompts, chat template, bounds and whose norms; neither the engine nor what it runs on."""
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
        used = {f"{part}_characters" for prompt in self.prompts for part in _BOUNDS[prompt.form]}
        bounds = config.model_dump(include={"max_tokens", *used})
        chat: dict[str, Any] = {"kwargs": dict(self.chat.template_kwargs), "system_turn": self.chat.system_turn}
        if self.chat.template is not None:
            chat["template"] = hashlib.sha256(self.chat.template.encode()).hexdigest()
        prompts = [prompt.options() for prompt in self.prompts]
        options = {"kind": self.kind, "weights": weights, "prompts": prompts, "chat": chat, **bounds}
        options["against"] = self.against
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
        outcomes = self._answers(engine, rows, 0)
        texts = [[] if isinstance(value, Exception) else [value["text"]] for value in outcomes]
        for number in range(1, len(self.prompts)):
            good = [place for place, value in enumerate(outcomes) if not isinstance(value, Exception)]
            more = self._answers(engine, [rows[place] for place in good], number)
            for place, value in zip(good, more, strict=True):
                if isinstance(value, Exception):
                    outcomes[place] = value
                else:
                    texts[place].append(value["text"])
        if len(self.prompts) > 1:
            outcomes = [
                value if isinstance(value, Exception) else {**value, "texts": own}
                for value, own in zip(outcomes, texts, strict=True)
            ]
        self._check_first(outcomes)
        return outcomes

    def question(self, row: Row, number: int = 0) -> Question:
        """What the model is asked about a row, by one of the prompts."""
        assert self.norms is not None
        prompt = self.prompts[number]
        expected = self.norms.for_speaker(row.get("speaker_id") if self.against == "speaker" else None)
        heard = row[WAVEFORM] if WAVEFORM in self.requires else None
        user = prompt.user.format(**asked_of(row, expected))
        return Question(prompt.system, user, audio=heard, examples=self._examples[number])

    def _answers(self, engine: Engine, rows: Sequence[Row], number: int) -> list[Value | Exception]:
        """What is made of the answers to one of the prompts."""
        prompt = self.prompts[number]
        questions = [self.question(row, number) for row in rows]
        values = [self._value(answer, prompt) for answer in self._ask(engine, questions, prompt)]
        bad = {place: value for place, value in enumerate(values) if isinstance(value, _Unusable) and value.answer}
        if bad:
            again = [
                questions[place].followed_by(first.answer, prompt.repair.format(problem=first.problem))
                for place, first in bad.items()
            ]
            for place, answer in zip(bad, self._ask(engine, again, prompt), strict=True):
                values[place] = self._value(answer, prompt)
        return [value.error(self.kind) if isinstance(value, _Unusable) else value for value in values]

    def _value(self, answer: Answer, prompt: Prompt) -> Value | _Unusable | Exception:
        if not isinstance(answer, Reply):
            return answer
        try:
            if prompt.form == "record":
                return semantics_value(read_record(answer.text))
            if answer.cut_off:
                raise UnusableAnswerError(without_thoughts(answer.text), "it is cut off")
            return paragraph_value(read_paragraph(answer.text, self.config.paragraph_characters))
        except UnusableAnswerError as error:
            problem = "it is cut off, too long" if answer.cut_off else error.problem
            return _Unusable(error.answer, problem, prompt, cut_off=answer.cut_off)

    def _open(self) -> Engine:
        config = self.config
        if self.engine.kind == "endpoint":
            return open_engine(config.model, self.engine)
        check_compiles(json.dumps(self.schema), f"annotate.semantics.{self.kind}")
        remote_code = self.engine.vllm.trust_remote_code
        folder = model_folder(config.model, config.revision, remote_code=remote_code)
        adapter = str(model_folder(config.adapter)) if config.adapter is not None else None
        return open_engine(str(folder), self.engine, adapter)

    def _ask(self, engine: Engine, questions: list[Question], prompt: Prompt) -> list[Answer]:
        ask = engine.answer if self._name() in _proven else answer_or_refuse(engine)
        schema = self.schema if prompt.form == "record" else None
        answers = ask(questions, schema, self.config.max_tokens, self.chat)
        count_tokens(answers)
        return answers

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
    """Reads the transcript, emphasised words in capitals, and the measured delivery in words."""

    kind = "text_llm"
    version = 4
    requires = ("transcribe", "prosody")
    uses = ("emphasis",)


class AudioLlmSemantics(LanguageModelSemantics):
    """Hears the clip, and is given the same: what a recogniser made of the words, their emphasis, the delivery."""

    kind = "audio_llm"
    version = 3
    requires = (WAVEFORM, "prosody")
    uses = ("transcribe", "emphasis")


class _Unusable:
    """An answer that is not what was asked for."""

    def __init__(self, answer: str, problem: str, prompt: Prompt, *, cut_off: bool) -> None:
        self.answer = answer
        self.problem = problem
        self.form = prompt.form
        self.cut_off = cut_off

    def error(self, kind: str) -> StageError:
        if self.cut_off:
            return StageError(
                f"the answer is cut off at max_tokens; it begins {self.answer[:120]!r}",
                remedy=f"Raise annotate.semantics.{kind}.max_tokens; if the model thinks, switch that off"
                " (chat.template_kwargs) or leave room for it",
                kind="answer_cut_off",
            )
        wanted = "record" if self.form == "record" else "paragraph"
        return StageError(
            f"the model gave no valid {wanted}, twice: {self.problem}; it said {self.answer[:120]!r}",
            remedy="Take another model or prompt",
            kind="bad_record",
        )
