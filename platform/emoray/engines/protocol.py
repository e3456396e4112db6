"""OpenAI's chat protocol: what is sent, and what a server's reply means for the row, the server or the run."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import httpx

from emoray.engines.client import Chat, Question, Reply
from emoray.engines.config import EndpointConfig
from emoray.errors import RefusedError, StageError, TransientError

MESSAGE_CHARACTERS = 300
#: The key, the address or the model is wrong, or there is nothing left to pay with: so it is for any other request.
REFUSES_ALL = frozenset({301, 302, 307, 308, 401, 402, 403, 404, 405})
#: The server is there and says that it has no time, or a proxy says that it is not there.
BUSY = frozenset({425, 429, 502, 503, 504, 529})
#: A quota that is used up is reported as 429 too, and does not pass.
_USED_UP = "insufficient_quota"


class NoReplyError(TransientError):
    """A request without an answer that may have one at the next attempt.

    Attributes:
        busy: The server has no time or is away, whatever the row; otherwise it failed, perhaps at this row.
        retry_after_s: When the server said to come again.
    """

    def __init__(self, what: str, *, busy: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(what, kind="engine_busy" if busy else "engine_error")
        self.busy = busy
        self.retry_after_s = retry_after_s

    def of_row(self) -> StageError:
        """The same as an error of its row: the server answered other rows."""
        return StageError(
            f"the engine fails at this row: {self.what}",
            remedy="The server's log says more",
            kind="engine_error",
        )


def request_body(
    question: Question, model: str, schema: dict[str, Any] | None, max_tokens: int, chat: Chat, config: EndpointConfig
) -> dict[str, Any]:
    """The body of a request for a chat completion."""
    form = {"name": "record", "schema": schema, "strict": True}
    held = None if schema is None else {"type": "json_schema", "json_schema": form}
    body = {
        "model": model,
        "messages": question.messages(config.audio_format),
        "temperature": 0.0,
        "seed": 0,
        "max_tokens": max_tokens,
        "response_format": held,
        # vLLM's own fields.
        "chat_template": chat.template,
        "chat_template_kwargs": dict(chat.template_kwargs) or None,
        **config.extra_body,
    }
    return {name: value for name, value in body.items() if value is not None}


def read_reply(reply: httpx.Response, url: str) -> Reply:
    """The model's words in a server's reply.

    Raises:
        NoReplyError: There are none, and perhaps at the next attempt.
        StageError: There are none for this row: refused_by_engine, refused_by_model, content_filtered or no_text.
        RefusedError: The server would refuse any request.
    """
    status, detail = reply.status_code, f"HTTP {reply.status_code}: {reply.text[:MESSAGE_CHARACTERS]}"
    if status in REFUSES_ALL or (status == 429 and _USED_UP in reply.text):
        raise RefusedError(
            f"the engine refuses all requests, {detail}",
            where=url,
            remedy="Check the address, the model's name, the key and the quota; what is done is kept",
        )
    if status in BUSY:
        raise NoReplyError(detail, busy=True, retry_after_s=_retry_after_s(reply.headers.get("Retry-After")))
    if status == 408 or status >= 500:
        raise NoReplyError(detail, busy=False)
    if status != 200:
        raise StageError(f"the engine refuses this row, {detail}", kind="refused_by_engine")
    try:
        choice = reply.json()["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        refusal, text = message.get("refusal"), _text(message)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NoReplyError(f"not a reply of OpenAI's protocol: {detail}", busy=False) from error
    if finish == "error":
        raise NoReplyError(f"the engine ended the answer with an error: {detail}", busy=False)
    if finish == "content_filter":
        raise StageError("the server's content filter took the answer away", kind="content_filtered")
    if refusal:
        raise StageError(f"the model refuses: {str(refusal)[:MESSAGE_CHARACTERS]}", kind="refused_by_model")
    if not text and finish != "length":
        # Some servers take a whole answer for a thought, when the model is told not to think.
        text = str(message.get("reasoning_content") or message.get("reasoning") or "")
        if not text:
            raise StageError(f"the model said nothing (finish_reason {finish!r})", kind="no_text")
    usage = reply.json().get("usage")
    read, written = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(text, finish == "length", tokens_read=read, tokens_written=written)


def _count(usage: object, name: str) -> int:
    """A number of tokens in a server's account; 0 where it gives none."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) else 0


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return str(content or "")


def _retry_after_s(value: str | None) -> float:
    """Seconds that a `Retry-After` names: a number, or a date (RFC 9110, section 10.2.3). 0 for neither."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
