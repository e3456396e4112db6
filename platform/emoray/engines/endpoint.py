"""Any server that speaks OpenAI's chat protocol, over HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import httpx
import tenacity

from emoray.engines.budget import OutOfTimeError, left_s
from emoray.engines.client import Answer, Chat, Engine, Question, Reply
from emoray.engines.config import EndpointConfig
from emoray.engines.protocol import NoReplyError, read_reply, request_body
from emoray.engines.system_turn import server_drops_system
from emoray.errors import ConfigError, ServiceError, StageError, TransientError

log = logging.getLogger(__name__)

#: Servers that did not answer at the last call. The next call asks them one question, once: a million rows need not
#: wait for a dead server one batch after the other.
_down: set[str] = set()


class Endpoint(Engine):
    """A client. It holds no connection between calls, and may be called from several threads.

    Args:
        model: Name that the server knows the model by.
        config: Where it is and how to treat it.

    Raises:
        ConfigError: No address, or the key's variable is not set.
    """

    def __init__(self, model: str, config: EndpointConfig) -> None:
        if config.url is None or not config.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"an endpoint needs an address, got {config.url!r}",
                where="engine.endpoint.url",
                remedy="For example http://127.0.0.1:8001/v1",
                kind="no_endpoint",
            )
        self._model = model
        self._config = config
        self._base = config.url.rstrip("/")
        self._headers = {}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env)
            if not key:
                raise ConfigError(
                    f"the environment variable {config.api_key_env} is not set",
                    where="engine.endpoint.api_key_env",
                    remedy="Put the key into it, on the workers too",
                    kind="no_api_key",
                )
            self._headers["Authorization"] = f"Bearer {key}"

    def answer(
        self, questions: Sequence[Question], schema: dict[str, Any] | None, max_tokens: int, chat: Chat
    ) -> list[Answer]:
        """See `Engine.answer`. What the server fails at is the row's error only if it answers others meanwhile."""
        if not questions:
            return []
        return asyncio.run(self._answer(list(questions), schema, max_tokens, chat))

    async def _answer(
        self, questions: list[Question], schema: dict[str, Any] | None, max_tokens: int, chat: Chat
    ) -> list[Answer]:
        config = self._config
        limits = httpx.Limits(max_connections=config.max_parallel)
        async with httpx.AsyncClient(headers=self._headers, timeout=config.timeout_s, limits=limits) as client:
            try:
                async with asyncio.timeout(left_s()):
                    folds = await server_drops_system(client, self._base, self._model, questions[0].system, chat)
            except TimeoutError:
                return [OutOfTimeError() for _ in questions]
            if folds:
                questions = [question.folded() for question in questions]
            sender = _Sender(client, f"{self._base}/chat/completions", config)
            bodies = [request_body(question, self._model, schema, max_tokens, chat, config) for question in questions]
            found: list[Answer] = []
            if self._base in _down:
                found = [await sender.send(bodies[0], attempts=1)]
                self._raise_if_silent(found)
            found += await asyncio.gather(*(sender.send(body, config.max_attempts) for body in bodies[len(found) :]))
        self._raise_if_silent(found)
        return [answer.of_row() if isinstance(answer, NoReplyError) and not answer.busy else answer for answer in found]

    def _raise_if_silent(self, answers: list[Answer]) -> None:
        failed = [answer for answer in answers if isinstance(answer, TransientError)]
        if len(failed) < len(answers):
            _down.discard(self._base)
            return
        if any(isinstance(answer, OutOfTimeError) for answer in failed):
            return  # with more time it might have answered
        _down.add(self._base)
        raise ServiceError(
            f"the engine does not answer: {failed[0].what}",
            where=self._base,
            remedy="Start it, or read its log; what is done is kept, and the same command goes on",
            kind="engine_unreachable",
        ) from failed[0]


class _Sender:
    """Sends the requests of one call: so many at a time, and again what failed."""

    def __init__(self, client: httpx.AsyncClient, url: str, config: EndpointConfig) -> None:
        self._client = client
        self._url = url
        self._config = config
        self._slots = asyncio.Semaphore(config.max_parallel)
        self._not_before = 0.0  # a server that said when to come again said it to all requests
        self._said = False

    async def send(self, body: dict[str, Any], attempts: int) -> Answer:
        """The answer to a request: a Reply, a StageError, a NoReplyError after all attempts, or an OutOfTimeError."""
        failures = 0
        error: BaseException | None = None

        def stop(state: tenacity.RetryCallState) -> bool:
            nonlocal failures, error
            error = state.outcome.exception() if state.outcome else None
            failures += isinstance(error, NoReplyError) and not error.busy
            out_of_time = tenacity.stop_before_delay(self._config.patience_s)(state)
            return attempts == 1 or failures >= attempts or out_of_time

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(NoReplyError),
            stop=stop,
            wait=self._pause,
            before_sleep=self._say,
            reraise=True,
        )
        try:
            async with asyncio.timeout(left_s()), self._slots:
                reply: Reply = await retrying(self._once, body)
        except TimeoutError:
            return OutOfTimeError(None if error is None else str(error))
        except (StageError, TransientError) as refused:
            return refused
        return reply

    def _pause(self, state: tenacity.RetryCallState) -> float:
        config = self._config
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, NoReplyError) else 0.0
        self._not_before = max(self._not_before, time.monotonic() + asked_s)
        drawn = tenacity.wait_random_exponential(multiplier=config.backoff_s, max=config.max_backoff_s)(state)
        return asked_s + drawn

    def _say(self, state: tenacity.RetryCallState) -> None:
        if not self._said and state.outcome is not None:
            self._said = True
            wait_s = self._config.patience_s
            log.warning("%s: %s; it is asked again, for up to %g s", self._url, state.outcome.exception(), wait_s)

    async def _once(self, body: dict[str, Any]) -> Reply:
        await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        try:
            async with asyncio.timeout(self._config.timeout_s):
                reply = await self._client.post(self._url, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NoReplyError(f"no connection, {error}", busy=True) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise NoReplyError(f"{type(error).__name__} {error}".strip(), busy=False) from error
        return read_reply(reply, self._url)
