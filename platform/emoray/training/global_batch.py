"""A batch as input of the objective: the model's outputs for all clips, and their labels.

Shapes: N clips, L columns, C classes, E experts, R regions, M branches or modalities, 3 = (valence, arousal,
dominance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from emoray.models.batch import Batch, Output


@dataclass(frozen=True)
class GlobalBatch:
    """Outputs (see `emoray.models.batch.Output`) and labels of all clips of a batch.

    Attributes:
        target_N3: Labels, NaN where unlabelled.
        label_N: Class indices, −1 where unlabelled.
    """

    prediction_N3: Tensor
    target_N3: Tensor
    label_N: Tensor
    logits_NC: Tensor | None = None
    router_N3E: Tensor | None = None
    experts_N3E: Tensor | None = None
    regions_NR: Tensor | None = None
    branches_NM3: Tensor | None = None
    branch_logits_NMC: Tensor | None = None
    modality_logits_NMC: Tensor | None = None

    @property
    def trained(self) -> list[tuple[Tensor, Tensor | None]]:
        """Predictions and class logits with a loss: each branch's if there are branches, else the model's."""
        if self.branches_NM3 is None:
            return [(self.prediction_N3, self.logits_NC)]
        predictions = self.branches_NM3.unbind(1)
        if self.branch_logits_NMC is None:
            return [(prediction_N3, None) for prediction_N3 in predictions]
        return list(zip(predictions, self.branch_logits_NMC.unbind(1), strict=True))


#: The fields that are outputs of a model, named there with B for N.
OUTPUTS = tuple(one.name for one in fields(GlobalBatch) if one.name not in ("target_N3", "label_N"))


def loss_inputs(batch: GlobalBatch) -> list[Tensor]:
    """The tensors that the loss has a gradient in."""
    tensors = (getattr(batch, name) for name in OUTPUTS if name != "experts_N3E")
    return [tensor for tensor in tensors if tensor is not None]


def from_output(output: Output, batch: Batch) -> GlobalBatch:
    """A micro-batch, in float32 whatever the model's precision."""
    tensors = {name: getattr(output, name.replace("_N", "_B")) for name in OUTPUTS}
    single: dict[str, Any] = {name: None if tensor is None else tensor.float() for name, tensor in tensors.items()}
    return GlobalBatch(target_N3=batch.target_B3, label_N=batch.label_B, **single)


def sizes_of(part: GlobalBatch | None) -> list[int]:
    """Classes C, experts E, regions R, branches M and modalities M; 0 if the model has none, or nothing is known."""
    if part is None:
        return [0] * 5
    last = (part.logits_NC, part.router_N3E, part.regions_NR)
    middle = (part.branches_NM3, part.modality_logits_NMC)
    return [
        *(0 if tensor is None else tensor.shape[-1] for tensor in last),
        *(0 if tensor is None else tensor.shape[1] for tensor in middle),
    ]


def clip_shapes(
    classes: int = 0, experts: int = 0, regions: int = 0, branches: int = 0, modalities: int = 0
) -> dict[str, tuple[int, ...]]:
    """Shape of one clip in each tensor of `GlobalBatch`, in the order of its columns."""
    return {
        "prediction_N3": (3,),
        "target_N3": (3,),
        "label_N": (1,),
        "logits_NC": (classes,),
        "router_N3E": (3, experts),
        "experts_N3E": (3, experts),
        "regions_NR": (regions,),
        "branches_NM3": (branches, 3),
        "branch_logits_NMC": (branches, classes),
        "modality_logits_NMC": (modalities, classes),
    }


def to_matrix(part: GlobalBatch) -> Tensor:
    """One row (L) per clip with all tensors, without gradient: the message between workers."""
    clips = len(part.prediction_N3)
    columns = [value for name in clip_shapes() if (value := getattr(part, name)) is not None]
    return torch.cat([column.detach().reshape(clips, -1).float() for column in columns], dim=1)


def from_matrix(matrix_NL: Tensor, shapes: dict[str, tuple[int, ...]]) -> GlobalBatch:
    """The batch of the rows of `to_matrix`, by `clip_shapes`; a tensor without numbers is None."""
    parts = matrix_NL.split([math.prod(shape) for shape in shapes.values()], dim=1)
    tensors = {
        name: part.clone().unflatten(1, shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
        if math.prod(shape)
    }
    return GlobalBatch(**{**tensors, "label_N": tensors["label_N"][:, 0].long()})
