"""Any server that speaks OpenAI's `/v1/audio/transcriptions`, over HTTP.

One client per process: its connections stay open between batches, and its threads keep as many requests under way as
the configuration allows.
"""

from __future__ import annotations

import email.utils
import functools
import io
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import soundfile
import tenacity

from emoray.audio.io import AUDIO_HZ
from emoray.errors import ConfigError, ServiceError, StageError, TransientError
from emoray.stages.transcribe.config import TranscriptionEndpointConfig
from emoray.stages.transcribe.recognise import Hypothesis

MESSAGE_CHARACTERS = 300
LONGEST_PAUSE_S = 60.0
#: So many clips that are all refused, before any was taken, are no coincidence: it is the request that is refused.
REFUSED_ALIKE = 3
FORMATS = ("verbose_json", "json")
UPLOADS: dict[str, tuple[str, str]] = {"flac": ("clip.flac", "audio/flac"), "wav": ("clip.wav", "audio/wav")}


class BusyError(TransientError):
    """The server cannot answer now.

    Attributes:
        retry_after_s: How long it asks to be left alone; 0 where it does not say.
    """

    kind = "engine_busy"
    retry_after_s: float = 0.0


class Transcriptions:
    """A client of one server.

    Raises:
        ConfigError: No address, or the key's variable is not set.
    """

    def __init__(self, config: TranscriptionEndpointConfig) -> None:
        where = "annotate.transcribe.endpoint"
        if config.url is None:
            raise ConfigError(
                "an endpoint needs an address", where=f"{where}.url", remedy="For example http://127.0.0.1:8001/v1"
            )
        headers = {}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env)
            if not key:
                raise ConfigError(
                    f"the environment variable {config.api_key_env} is not set",
                    where=f"{where}.api_key_env",
                    remedy="Put the key into it, on the workers too",
                )
            headers["Authorization"] = f"Bearer {key}"
        self._config = config
        self._url = f"{config.url.rstrip('/')}/audio/transcriptions"
        self._http = httpx.Client(
            headers=headers,
            timeout=config.timeout_s,
            limits=httpx.Limits(max_connections=config.max_parallel, max_keepalive_connections=config.max_parallel),
        )
        self._threads = ThreadPoolExecutor(config.max_parallel, thread_name_prefix="transcriptions")
        #: The format to ask for; None until the server was seen to take one.
        self._format: str | None = None if config.response_format == "auto" else config.response_format
        self._answered = False
        self._alive_at = time.monotonic()

    def transcribe(self, clips: Sequence[npt.NDArray[np.float32]]) -> list[Hypothesis | Exception]:
        """Transcribe clips, float32 (S,) each, mono, 16 kHz.

        Returns:
            Per clip what was heard; a StageError where the server refuses this clip; a TransientError where it did not
            answer, so that the clip can be tried again.

        Raises:
            ServiceError: It answers no request, or refuses them all: key, address, model, or what is asked.
        """
        if not clips:
            return []
        self._alive_at = time.monotonic()
        if self._format is None:
            self._format = self._accepted_format(clips)
        answers = list(self._threads.map(self._one, clips))
        self._raise_for_all(answers)
        return answers

    def _accepted_format(self, clips: Sequence[npt.NDArray[np.float32]]) -> str | None:
        """The first of the formats in which the server transcribes one of the clips; None while nobody knows."""
        for clip in clips:
            for response_format in FORMATS:
                answer = self._one(clip, response_format)
                if isinstance(answer, Hypothesis):
                    return response_format
                if isinstance(answer, TransientError):
                    return None
        return None

    def _one(self, clip: npt.NDArray[np.float32], response_format: str | None = None) -> Hypothesis | Exception:
        wanted = response_format or self._format or FORMATS[0]
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=self._is_hopeless,
            wait=self._pause,
            reraise=True,
        )
        duration_s = len(clip) / AUDIO_HZ
        try:
            reply = retrying(self._post, _encoded(clip, self._config.upload), wanted)
            heard = hypothesis(reply, self._config.language, duration_s)
        except (StageError, TransientError) as error:
            return error
        self._answered, self._alive_at = True, time.monotonic()
        return heard

    def _is_hopeless(self, state: tenacity.RetryCallState) -> bool:
        """Whether the server will have answered nobody for longer than our patience, when the pause is over."""
        return time.monotonic() + state.upcoming_sleep - self._alive_at > self._config.patience_s

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """At least what the server asks for; else drawn at random below a bound that doubles (full jitter)."""
        drawn = tenacity.wait_random_exponential(self._config.backoff_s, LONGEST_PAUSE_S)(state)
        error = state.outcome.exception() if state.outcome is not None else None
        return max(drawn, error.retry_after_s) if isinstance(error, BusyError) else drawn

    def _post(self, audio: bytes, response_format: str) -> Mapping[str, Any]:
        name, media_type = UPLOADS[self._config.upload]
        form: dict[str, Any] = {"model": self._config.model, "response_format": response_format, "temperature": "0"}
        if self._config.language is not None:
            form["language"] = self._config.language
        if response_format == "verbose_json":
            form["timestamp_granularities[]"] = ["word", "segment"]
        try:
            reply = self._http.post(self._url, data=form, files={"file": (name, audio, media_type)})
        except httpx.TransportError as error:
            what = f"{type(error).__name__} {str(error)[:MESSAGE_CHARACTERS]}".strip()
            raise TransientError(what, kind="engine_unreachable") from error
        detail = f"HTTP {reply.status_code}: {reply.text[:MESSAGE_CHARACTERS]}"
        if reply.status_code in (401, 403, 404):
            raise ServiceError(
                f"the recogniser refuses all requests, {detail}",
                where=self._url,
                remedy="Check the address, the model's name and the key",
                kind="engine_refuses",
            )
        if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
            busy = BusyError(detail)
            busy.retry_after_s = _retry_after_s(reply.headers.get("Retry-After"))
            raise busy
        if reply.status_code != 200:
            raise StageError(f"the recogniser refuses this row, {detail}", kind="refused_by_engine")
        try:
            found = reply.json()
            if isinstance(found["text"], str):
                return dict(found)
        except (ValueError, LookupError, TypeError):
            pass
        raise StageError(f"not an answer of OpenAI's protocol: {detail}", kind="bad_answer")

    def _raise_for_all(self, answers: Sequence[Hypothesis | Exception]) -> None:
        """End the job where no row is to blame."""
        away = [answer for answer in answers if isinstance(answer, TransientError)]
        if len(away) == len(answers):
            raise ServiceError(
                f"the recogniser does not answer: {away[0].what}",
                where=self._url,
                remedy="Start it, or see its log; what is done is kept, and the same command resumes",
                kind="engine_unreachable",
            )
        refused = [answer for answer in answers if isinstance(answer, StageError)]
        if not self._answered and len(refused) >= REFUSED_ALIKE and len(refused) + len(away) == len(answers):
            raise ServiceError(
                f"the recogniser refuses every clip of the first batch: {refused[0].what}",
                where=self._url,
                remedy="Check annotate.transcribe.endpoint: model, language, response_format and upload",
                kind="engine_refuses",
            )


def hypothesis(reply: Mapping[str, Any], language: str | None, duration_s: float) -> Hypothesis:
    """What a reply says.

    Args:
        reply: The answer, with `text`; in `verbose_json` also `language`, `words` and `segments`.
        language: The one that was asked for.
        duration_s: Of the clip.
    """
    words = None
    given = reply.get("words")
    if isinstance(given, list) and given and all(_is_timed(word) for word in given):
        words = [(word["word"].strip(), float(word["start"]), float(word["end"])) for word in given]
        if any(end > duration_s + 1.0 for _, _, end in words):
            words = None  # times of something else than this clip
    logs = [
        float(segment["avg_logprob"])
        for segment in reply.get("segments") or []
        if isinstance(segment, Mapping) and isinstance(segment.get("avg_logprob"), int | float)
    ]
    confidence = min(1.0, math.exp(sum(logs) / len(logs))) if logs and all(map(math.isfinite, logs)) else None
    return Hypothesis(reply["text"], language or _language_code(reply.get("language")), words, confidence)


def _is_timed(word: Any) -> bool:
    return (
        isinstance(word, Mapping)
        and isinstance(word.get("word"), str)
        and all(isinstance(word.get(edge), int | float) for edge in ("start", "end"))
    )


def _language_code(name: Any) -> str | None:
    """The code of a language that is given by code or by English name."""
    if not isinstance(name, str) or not name.strip():
        return None
    plain = name.strip().lower()
    if len(plain) <= 3:
        return plain
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return TO_LANGUAGE_CODE.get(plain)


def _retry_after_s(value: str | None) -> float:
    """Seconds that a `Retry-After` header asks for, in seconds or as a date (RFC 9110); 0 for none or nonsense."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _encoded(clip: npt.NDArray[np.float32], upload: str) -> bytes:
    """A file of 16 bit."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(clip, -1.0, 1.0), AUDIO_HZ, format=upload.upper(), subtype="PCM_16")
    return file.getvalue()


@functools.cache
def client(config: TranscriptionEndpointConfig) -> Transcriptions:
    """This process's client of a server."""
    return Transcriptions(config)
