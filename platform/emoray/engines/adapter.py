"""LoRA adapters: what vLLM has to be told of one when it loads, and with every request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from emoray.errors import ConfigError

#: Ranks that vLLM prepares for; an adapter takes the next one.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def adapter_options(folder: str | None) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for an adapter; none without one.

    Raises:
        ConfigError: The folder holds no adapter, or one that vLLM cannot take.
    """
    if folder is None:
        return {}
    try:
        rank = int(json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))["r"])
        taken = next(known for known in RANKS if rank <= known)
    except (OSError, ValueError, LookupError, StopIteration) as error:
        raise ConfigError(
            f"{folder!r} holds no LoRA adapter that vLLM can take (rank up to {RANKS[-1]})",
            remedy="Give a folder with adapter_config.json, as peft writes it",
            kind="bad_adapter",
        ) from error
    return {"enable_lora": True, "max_lora_rank": taken}


def adapter_request(folder: str | None) -> Any:
    """The `LoRARequest` of vLLM for an adapter; None without one."""
    if folder is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, folder)
