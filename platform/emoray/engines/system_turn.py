"""Whether a chat template shows the model the system text: some drop it, and with it all instructions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx

from emoray.engines.client import Chat, Question
from emoray.errors import ConfigError

log = logging.getLogger(__name__)

#: A conversation whose parts are easily found again in a prompt, however it is tokenized.
_SYSTEM, _USER = "kestrel", "Describe the heron."
_PROBE = Question(_SYSTEM, _USER)
_drops: dict[str, bool] = {}


def template_drops_system(render: Callable[[Question], str], system: str, chat: Chat) -> bool:
    """Whether the system text has to go into the user's turn.

    Args:
        render: Gives the prompt that the model would see; raises what the template raises.
        system: The system text.
        chat: `system_turn` decides, unless it is `auto`.

    Raises:
        ConfigError: The template refuses the conversation even without a system turn, or the model has none.
    """
    if chat.system_turn != "auto" or not system:
        return chat.system_turn == "fold"
    try:
        plain = render(_PROBE)
    except Exception as refused:  # a template raises what it likes: "System role not supported"
        log.info("the chat template refuses a system turn: %s", refused)
        plain = ""
    if _SYSTEM in plain.lower():
        return False
    try:
        folded = render(_PROBE.folded())
    except Exception as error:
        raise ConfigError(
            f"the chat template cannot be used: {error}",
            remedy="Give one with annotate.semantics.<kind>.chat.template, or take an instruction-tuned model",
            kind="bad_chat_template",
        ) from error
    return _is_shown(folded)


async def server_drops_system(client: httpx.AsyncClient, base: str, model: str, system: str, chat: Chat) -> bool:
    """The same for a server. vLLM's can be asked (`/tokenize`); others are taken to show it.

    Args:
        client: An open client.
        base: The server's address, which ends in /v1.
        model: Name of the model.
        system: The system text.
        chat: `system_turn` decides, unless it is `auto`.
    """
    if chat.system_turn != "auto" or not system:
        return chat.system_turn == "fold"
    key = json.dumps([base, model, chat.template, dict(chat.template_kwargs)], sort_keys=True, default=str)
    if key not in _drops:
        plain = await _prompt_of(client, base, model, _PROBE, chat)
        _drops[key] = (
            plain is not None
            and _SYSTEM not in plain.lower()
            and _is_shown(await _prompt_of(client, base, model, _PROBE.folded(), chat) or "")
        )
    return _drops[key]


def _is_shown(folded: str) -> bool:
    """Whether the system text reaches the model in the user's turn, though not in its own turn."""
    if _SYSTEM not in folded.lower():
        log.warning("it cannot be seen what the chat template does with a system text: it gets a turn of its own")
        return False
    log.warning("the chat template drops the system text: it goes into the user's turn")
    return True


async def _prompt_of(client: httpx.AsyncClient, base: str, model: str, question: Question, chat: Chat) -> str | None:
    """The prompt that a vLLM server makes of a conversation; "" if its template refuses it, None if it does not say."""
    root = base.removesuffix("/v1")
    body: dict[str, Any] = {"model": model, "messages": question.messages()}
    if chat.template is not None:
        body["chat_template"] = chat.template
    if chat.template_kwargs:
        body["chat_template_kwargs"] = dict(chat.template_kwargs)
    try:
        reply = await client.post(f"{root}/tokenize", json=body)
        if reply.status_code == 400:
            return ""
        tokens = reply.json()["tokens"] if reply.status_code == 200 else None
        if tokens is None:
            return None
        reply = await client.post(f"{root}/detokenize", json={"model": model, "tokens": tokens})
        return str(reply.json()["prompt"]) if reply.status_code == 200 else None
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return None
