"""What a stage asks an engine, and how it is answered."""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from emoray.audio.io import AUDIO_HZ

#: The text, or why there is none. An error is one row's; whatever concerns the whole engine is raised.
Answer = str | Exception


@dataclass(frozen=True)
class Question:
    """A conversation that the model is to continue.

    Attributes:
        system: What holds for all rows: it comes first, so that engines compute it once (prefix caching).
        user: What holds for this row.
        audio: float32 (S,), mono, 16 kHz, for models that hear; it comes before `user`.
        exchange: Turns after that, (role, text).
    """

    system: str
    user: str
    audio: npt.NDArray[np.float32] | None = None
    exchange: tuple[tuple[str, str], ...] = ()

    def followed_by(self, answer: str, objection: str) -> Question:
        """The same conversation after an answer and an objection to it."""
        return replace(self, exchange=(*self.exchange, ("assistant", answer), ("user", objection)))

    def messages(self) -> list[dict[str, Any]]:
        """As OpenAI's protocol and vLLM's `LLM.chat` take it."""
        content: Any = self.user
        if self.audio is not None:
            sound = {"type": "input_audio", "input_audio": {"data": _wav_base64(self.audio), "format": "wav"}}
            content = [sound, {"type": "text", "text": self.user}]
        turns = [{"role": role, "content": text} for role, text in self.exchange]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": content}, *turns]


class Engine(ABC):
    """Something that answers questions, greedily: the same question gets the same answer."""

    @abstractmethod
    def answer(self, questions: Sequence[Question], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        """Answer questions, all at once as far as the engine can.

        Args:
            questions: The questions.
            schema: JSON schema that decoding is held to.
            max_tokens: Longest answer; a longer one comes back cut off.

        Returns:
            One answer per question, in order.

        Raises:
            TransientError: The engine failed, and may not at the next try.
            ServiceError: It cannot be reached, or cannot run at all.
        """


def _wav_base64(samples: npt.NDArray[np.float32]) -> str:
    file = io.BytesIO()
    soundfile.write(file, samples, AUDIO_HZ, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()
