"""Any server that speaks OpenAI's chat protocol, over HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import httpx
import tenacity

from emoray.engines.client import Answer, Engine, Question
from emoray.engines.config import EndpointConfig
from emoray.errors import ConfigError, ServiceError, StageError, TransientError

MESSAGE_CHARACTERS = 300
#: Servers that did not answer at the last call. The next one tries each request once, without a pause: a million rows
#: need not wait for a dead server one batch after the other.
_down: set[str] = set()


class Endpoint(Engine):
    """A client; it holds no connection between calls.

    Args:
        model: Name that the server knows the model by.
        config: Where it is and how to treat it.

    Raises:
        ConfigError: No address, or the key's variable is not set.
    """

    def __init__(self, model: str, config: EndpointConfig) -> None:
        if config.url is None:
            raise ConfigError(
                "an endpoint needs an address",
                where="engine.endpoint.url",
                remedy="For example http://127.0.0.1:8001/v1",
            )
        self._model = model
        self._config = config
        self._url = f"{config.url.rstrip('/')}/chat/completions"
        self._headers = {}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env)
            if not key:
                raise ConfigError(
                    f"the environment variable {config.api_key_env} is not set",
                    where="engine.endpoint.api_key_env",
                    remedy="Put the key into it, on the workers too",
                )
            self._headers["Authorization"] = f"Bearer {key}"

    def answer(self, questions: Sequence[Question], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        """See `Engine.answer`: a request that stays unanswered is its row's error, unless all of them do."""
        answers = asyncio.run(self._all(questions, schema, max_tokens))
        failed = [answer for answer in answers if isinstance(answer, TransientError)]
        if answers and len(failed) == len(answers):
            _down.add(self._url)
            raise ServiceError(
                f"the engine does not answer: {failed[0].what}",
                where=self._url,
                remedy="Start it, or mend what its log says; what is done is kept",
                kind="engine_unreachable",
            )
        _down.discard(self._url)
        return answers

    async def _all(self, questions: Sequence[Question], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        slots = asyncio.Semaphore(self._config.max_parallel)
        form = {"name": "record", "schema": schema, "strict": True}
        async with httpx.AsyncClient(headers=self._headers, timeout=self._config.timeout_s) as client:

            async def one(question: Question) -> Answer:
                body = {
                    "model": self._model,
                    "messages": question.messages(),
                    "temperature": 0.0,
                    "seed": 0,
                    "max_tokens": max_tokens,
                    "response_format": {"type": "json_schema", "json_schema": form},
                }
                async with slots:
                    try:
                        return await self._retried(client, body)
                    except (StageError, TransientError) as error:
                        return error

            return list(await asyncio.gather(*(one(question) for question in questions)))

    async def _retried(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(1 if self._url in _down else self._config.max_attempts),
            wait=tenacity.wait_exponential(multiplier=self._config.backoff_s),
            reraise=True,
        )
        return str(await retrying(self._once, client, body))

    async def _once(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        try:
            reply = await client.post(self._url, json=body)
        except httpx.TransportError as error:
            what = f"{type(error).__name__} {str(error)[:MESSAGE_CHARACTERS]}".strip()
            raise TransientError(what, kind="engine_unreachable") from error
        detail = f"HTTP {reply.status_code}: {reply.text[:MESSAGE_CHARACTERS]}"
        if reply.status_code in (401, 403, 404):
            raise ServiceError(
                f"the engine refuses all requests, {detail}",
                where=self._url,
                remedy="Check the address, the model's name and the key",
                kind="engine_refuses",
            )
        if reply.status_code == 429 or reply.status_code >= 500:
            raise TransientError(detail, kind="engine_busy")
        if reply.status_code != 200:
            raise StageError(f"the engine refuses this row, {detail}", kind="refused_by_engine")
        try:
            return str(reply.json()["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError) as error:
            raise StageError(f"not an answer of OpenAI's protocol: {detail}", kind="bad_answer") from error
