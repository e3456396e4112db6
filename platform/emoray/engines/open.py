"""Opens the configured engine."""

from __future__ import annotations

from emoray.engines.client import Engine
from emoray.engines.config import EngineConfig
from emoray.errors import ConfigError


def open_engine(model: str, config: EngineConfig, adapter: str | None = None) -> Engine:
    """This process's engine for a model; loaded at the first call.

    Args:
        model: Folder in Hugging Face layout; for an endpoint, the name that it serves.
        config: Which engine.
        adapter: Folder of a LoRA adapter. An endpoint serves one under its own name: that is the `model` then.

    Raises:
        MissingExtraError: vLLM is not installed.
        ServiceError: The engine cannot be started.
        ConfigError: No such kind, or it lacks a setting.
    """
    if config.kind == "vllm":
        from emoray.engines.local import local_engine

        return local_engine(model, config.vllm, adapter=adapter)
    if config.kind == "endpoint":
        from emoray.engines.endpoint import Endpoint

        return Endpoint(model, config.endpoint)
    raise ConfigError(f"unknown engine {config.kind!r}", where="engine.kind")
