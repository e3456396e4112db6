"""Whether a model fits, from its files and its configuration alone: known in a second, not after minutes of loading."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoray.engines.config import VllmConfig
from emoray.errors import ServiceError

GIB = 1024**3
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
#: Where models keep the configuration of their language model.
_LANGUAGE_MODELS = ("text_config", "llm_config", "language_config", "thinker_config")
#: cgroup version 2 and 1: limit and use.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Need:
    """What a model needs at least, per GPU.

    Attributes:
        weights_bytes: Its weights as they are loaded.
        answer_bytes: Keys and values of one prompt and answer of the greatest length; 0 if its configuration does not
            say.
    """

    weights_bytes: int
    answer_bytes: int


def need(folder: Path, config: VllmConfig) -> Need:
    """What a model in a folder needs when it is run as configured."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantized = "quantization_config" in settings or "quantization" in config.engine_kwargs
    own = _BYTES.get(str(settings.get("dtype") or settings.get("torch_dtype")).removeprefix("torch."), 2)
    element_bytes = own if config.dtype == "auto" else _BYTES[config.dtype]
    cast = None if quantized or config.dtype == "auto" else element_bytes
    weights = sum(_loaded_bytes(path, cast) for path in _weight_files(folder))
    weights = weights or sum(path.stat().st_size for path in folder.glob("*.bin"))
    share = max(1, config.tensor_parallel_size)
    return Need(weights // share, _answer_bytes(settings, config, element_bytes) // share)


def check_memory(folder: Path, config: VllmConfig, *, on_cpu: bool) -> None:
    """Compare what a model needs with what there is.

    Args:
        folder: The model.
        config: How it is run.
        on_cpu: vLLM's build is the one for CPUs.

    Raises:
        ServiceError: It cannot fit.
    """
    wanted = need(folder, config)
    if on_cpu:
        cache_bytes = config.cpu_cache_gib * GIB
        there = available_bytes()
        _compare(wanted.weights_bytes + cache_bytes, there, f"weights and cpu_cache_gib={config.cpu_cache_gib}", "free")
        _compare(wanted.answer_bytes, cache_bytes, "one answer of max_context_tokens", "cpu_cache_gib")
        return
    import torch

    free, total = torch.cuda.mem_get_info()
    budget = int(total * config.gpu_memory_share)
    share = f"{config.gpu_memory_share:g} of the GPU (gpu_memory_share)"
    _compare(wanted.weights_bytes + wanted.answer_bytes, budget, "weights and one answer of max_context_tokens", share)
    _compare(budget, free, share, "free: something else uses the GPU")


def available_bytes() -> int:
    """Memory that this process can still have: of the machine, and of its container."""
    import psutil  # a dependency of vLLM

    found = [int(psutil.virtual_memory().available)]
    for limit, use in _CGROUPS:
        try:
            allowed, used = (Path(path).read_text(encoding="ascii").strip() for path in (limit, use))
        except OSError:
            continue
        if allowed.isdigit():
            found.append(int(allowed) - int(used))
    return max(0, min(found))


def _compare(wanted_bytes: int, there_bytes: int, what: str, where: str) -> None:
    if wanted_bytes > there_bytes:
        raise ServiceError(
            f"not enough memory: {what} take {wanted_bytes / GIB:.1f} GiB, and {there_bytes / GIB:.1f} GiB are {where}",
            remedy="Take a smaller model, a narrower dtype, a smaller max_context_tokens, or more GPUs"
            " (tensor_parallel_size)",
            kind="not_enough_memory",
        )


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files that the weights are loaded from; some models keep a part in another folder."""
    for inner in {path.parent for path in folder.rglob("*.safetensors")}:
        index = inner / "model.safetensors.index.json"
        if (inner / "model.safetensors").is_file():
            yield inner / "model.safetensors"
        elif index.is_file():
            yield from (inner / name for name in set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        else:
            yield from inner.glob("*.safetensors")


def _loaded_bytes(path: Path, element_bytes: int | None) -> int:
    """Bytes of a file's tensors in memory, floating-point ones as `element_bytes` each unless that is None."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            as_is = element_bytes is None or tensor["dtype"] not in _STORED
            total += end - start if as_is else math.prod(tensor["shape"]) * element_bytes
    return total


def _answer_bytes(settings: Mapping[str, Any], config: VllmConfig, element_bytes: int) -> int:
    model = settings
    while inner := [model[name] for name in _LANGUAGE_MODELS if isinstance(model.get(name), dict)]:
        model = inner[0]
    layers, heads = model.get("num_hidden_layers"), model.get("num_attention_heads")
    width, tokens = model.get("hidden_size"), config.max_context_tokens or model.get("max_position_embeddings")
    if not (layers and heads and width and tokens):
        return 0
    head_width = model.get("head_dim") or width // heads
    return int(2 * layers * (model.get("num_key_value_heads") or heads) * head_width * tokens * element_bytes)
