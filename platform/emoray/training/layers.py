"""The layers of an acoustic encoder, which have most weights and activations: each recomputed, compiled, sharded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from emoray.errors import ConfigError
from emoray.models.cnn14_encoder import Cnn14Encoder
from emoray.models.encoders import LogMelEncoder, SslEncoder
from emoray.training.config import LaunchConfig


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a model's acoustic encoder, in order; none of a model without one."""
    layers: list[nn.Module] = []
    for part in model.modules():
        if isinstance(part, LogMelEncoder):
            layers += part.layers
        elif isinstance(part, Cnn14Encoder):
            layers += part.blocks
        elif isinstance(part, SslEncoder):
            backbone: Any = part.backbone
            layers += backbone.encoder.layers
    return layers


def prepare_layers(model: nn.Module, launch: LaunchConfig, device: torch.device) -> None:
    """Recompute and compile the layers of a model's encoder as configured, in place, before the model is sharded.

    Only a layer's `forward` is wrapped: names of weights stay the same, and hooks, which sharding and the weighted sum
    of an encoder's layers need, run outside.

    Raises:
        ConfigError: The encoder can't be recomputed, or the compiler doesn't work here.
    """
    layers = encoder_layers(model)
    if launch.compile is not None and layers:
        compiled = _compiler(launch.compile, device)
        for layer in layers:
            layer.forward = compiled(layer.forward)
    if launch.gradient_checkpointing:
        if any(isinstance(part, Cnn14Encoder) for part in model.modules()):
            raise ConfigError(
                "the second pass over a cnn14 encoder would update the running values of its batch normalisation again",
                where="launch.gradient_checkpointing",
                remedy="Set it to false and train.micro_batch_size lower, or use another model.encoder.kind",
            )
        for layer in layers:
            layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that stores only its inputs, and runs again in the backward pass, with the same dropout."""

    @functools.wraps(forward)
    def run(*arguments: Any, **keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **keywords)
        return checkpoint(forward, *arguments, use_reentrant=False, **keywords)

    return run


def _compiler(backend: str, device: torch.device) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """torch.compile for any number of clips and frames, tested on a sum."""
    # One program each for WavLM's first layer and the others, with gradient, without and in evaluation, for one clip
    # and for more: after torch's limit of eight it would not compile.
    torch._dynamo.config.recompile_limit = max(16, torch._dynamo.config.recompile_limit)
    # Dropout as without compilation: gradient caching runs each micro-batch twice, by two different compiled programs.
    options: dict[str, Any] | None = {"fallback_random": True} if backend == "inductor" else None

    def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(forward, dynamic=True, backend=backend, options=options)

    try:
        compiled(lambda value: value.sin() + 1)(torch.zeros(3, device=device))
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"torch.compile does not work here: {str(error).strip().splitlines()[0]}",
            where="launch.compile",
            remedy="Install a C++ compiler (g++; CXX names another), or set launch.compile=null",
        ) from error
    return compiled
