"""What a stage asks an engine, and how it is answered."""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from emoray.audio.io import AUDIO_HZ

#: How a clip is sent: 16 bits per sample; `flac` loses nothing of them and takes half the bytes.
AudioFormat = Literal["wav", "flac"]


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        text: Its words.
        cut_off: It had more to say: the longest answer was reached.
        tokens_read: Tokens of the question, as the engine counts them; 0 where it does not say.
        tokens_written: Tokens of the answer, thoughts included; 0 where it does not say.
    """

    text: str
    cut_off: bool = False
    tokens_read: int = 0
    tokens_written: int = 0


#: The reply, or why there is none. A StageError is the row's own. A TransientError is not: the row stays to do.
#: Errors of the engine as a whole are raised.
Answer = Reply | Exception


@dataclass(frozen=True)
class Chat:
    """How a conversation becomes the model's prompt.

    Attributes:
        template: Text of a Jinja template that replaces the model's own; None for that one.
        template_kwargs: Arguments of the template, for example `{"enable_thinking": False}`.
        system_turn: `keep` the system text in its own turn, `fold` it into the user's turn, or `auto`: fold it if
            the template drops or refuses it.
        adapter: Folder of a LoRA adapter; None without one.
    """

    template: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    system_turn: Literal["auto", "keep", "fold"] = "auto"


@dataclass(frozen=True)
class Question:
    """A conversation that the model is to continue.

    Attributes:
        system: What is the same for all rows: it comes first, so that engines compute it once (prefix caching). Empty
            for no system turn.
        user: What is the row's own.
        audio: float32 (S,), mono, 16 kHz, for models that hear; it comes before `user`.
        exchange: Turns after that, (role, text).
        examples: Turns before `user`, (role, text): questions and answers that show how it is done.
    """

    system: str
    user: str
    audio: npt.NDArray[np.float32] | None = None
    exchange: tuple[tuple[str, str], ...] = ()
    examples: tuple[tuple[str, str], ...] = ()

    def followed_by(self, answer: str, objection: str) -> Question:
        """The same conversation after an answer and an objection to it."""
        return replace(self, exchange=(*self.exchange, ("assistant", answer), ("user", objection)))

    def folded(self) -> Question:
        """The same conversation with the system text at the beginning of the first turn of the user."""
        if not self.system:
            return self
        if self.examples:
            (role, first), *others = self.examples
            return replace(self, system="", examples=((role, f"{self.system}\n\n{first}"), *others))
        return replace(self, system="", user=f"{self.system}\n\n{self.user}")

    def messages(self, audio_format: AudioFormat = "wav") -> list[dict[str, Any]]:
        """The conversation as OpenAI's protocol and vLLM's `LLM.chat` take it."""
        content: Any = self.user
        if self.audio is not None:
            sound = {"data": _encode(self.audio, audio_format), "format": audio_format}
            content = [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": self.user}]
        before, after = (
            [{"role": role, "content": text} for role, text in turns] for turns in (self.examples, self.exchange)
        )
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *before, {"role": "user", "content": content}, *after]


class Engine(ABC):
    """Answers questions, greedily: the same question gets the same answer."""

    @abstractmethod
    def answer(
        self, questions: Sequence[Question], schema: dict[str, Any] | None, max_tokens: int, chat: Chat
    ) -> list[Answer]:
        """Answer questions, as many at a time as the engine can.

        Args:
            questions: The questions.
            schema: JSON schema that the decoder is held to; None for free text.
            max_tokens: Longest answer; a longer one comes back cut off.
            chat: How the conversation becomes a prompt.

        Returns:
            One answer per question, in order.

        Raises:
            TransientError: The engine failed, and may not at the next attempt.
            ServiceError: It cannot be reached, or cannot run at all.
            RefusedError: It refuses whatever it is asked.
            ConfigError: It cannot be asked as it is configured.
        """


def _encode(samples: npt.NDArray[np.float32], audio_format: AudioFormat) -> str:
    # Left to itself soundfile scales the two formats differently.
    whole = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, whole, AUDIO_HZ, format=audio_format.upper(), subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
