"""The optimiser and the schedule of its learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from emoray.models.encoders import pretrained_parameters
from emoray.training.config import OptimizerConfig
from emoray.training.sharding import is_sharded


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser, with the encoder's learning rate for pre-trained weights, and no decay on vectors."""
    pretrained = {id(parameter) for module in model.modules() for parameter in pretrained_parameters(module)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in pretrained, parameter.dim() > 1), []).append(parameter)
    options = [
        {
            "params": parameters,
            "lr": config.encoder_lr if from_checkpoint else config.lr,
            "weight_decay": config.weight_decay if matrix else 0.0,
        }
        for (from_checkpoint, matrix), parameters in sorted(groups.items(), key=lambda item: not item[0][0])
    ]
    options = options or [{"params": []}]  # a model without weights
    if config.kind == "sgd":
        sharded = is_sharded(model)  # torch has no fused SGD for shards
        return torch.optim.SGD(options, lr=config.lr, momentum=config.momentum, fused=not sharded)
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    return kind(options, lr=config.lr, betas=config.betas, fused=True)


def lr_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Factor on the learning rates at a step: linear warm-up, then a cosine to zero or a constant."""
    warmup = math.ceil(config.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule != "cosine":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def plateau_factor(scores: Sequence[float], config: OptimizerConfig) -> float:
    """Factor on the learning rates after epochs with these dev scores, by torch's `ReduceLROnPlateau`.

    Computed from all scores each time, so that a resumed run needs only its history.
    """
    unit = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = ReduceLROnPlateau(unit, "max", factor=config.plateau_factor, patience=config.plateau_patience)
    for score in scores:
        scheduler.step(score)
    return float(unit.param_groups[0]["lr"])
