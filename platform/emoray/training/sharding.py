"""Full sharding (FSDP2): each worker stores its shard of every weight, of its gradient and of its optimiser state.

Sharded workers run every forward and backward pass at the same time, since each pass gathers weights from all. Workers
with fewer micro-batches run additional passes that do not count (`max_passes`). Files have full tensors (`full_state`),
so that any number of workers, sharded or not, can resume from them. `torch.distributed.checkpoint.state_dict` is not
used: it names the optimiser's states by parameter, which older files do not, and gathers full tensors on rank 0 only.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from emoray.training.layers import encoder_layers

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def shard(model: nn.Module, device: torch.device) -> None:
    """Shard a model's weights over the workers, in place; before, all workers have the same.

    The layers of an encoder are gathered one at a time, everything else together. Weights are gathered in float32:
    autocast decides what is computed in bf16, as with replicas, so that both train alike. `device` is where the
    collectives run: on a GPU with NCCL, on a CPU with gloo.
    """
    # Imported here: it takes over a second, and replicas do not need it.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    # WavLM's layers return views, which nothing changes in place; FSDP warns of them in each pass.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in [*encoder_layers(model), model]:
        # The root's weights are resharded after each pass, too: outside of passes there are only shards.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    assert isinstance(model, FSDPModule)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            # The loss is of the whole batch: gradients are summed. FSDP would take their mean.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other reduction with a factor
    # A weight that some worker's clips do not use counts as zero there; otherwise collectives would not match.
    model.set_reduce_scatter_unused_params(True)


def is_sharded(model: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether `shard` sharded the model."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported: nothing is sharded
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def is_sharded_tensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a worker's shard."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def backward(model: nn.Module, values: Sequence[Tensor], slopes: Sequence[Tensor | None], *, last: bool) -> None:
    """Backward pass of a micro-batch, from a model's outputs and the loss's gradient in each (None: independent of it).

    Gradients of a sharded model are summed over the workers only after the `last` micro-batch of a step.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(last)
        # Every output takes part, so that all workers pass the layers in the same order, whatever their clips.
        slopes = [
            torch.zeros_like(value) if slope is None else slope for value, slope in zip(values, slopes, strict=True)
        ]
    pairs = [(value, slope) for value, slope in zip(values, slopes, strict=True) if slope is not None]
    pairs = [(value, slope) for value, slope in pairs if value.requires_grad]
    if pairs:
        torch.autograd.backward([value for value, _ in pairs], [slope for _, slope in pairs])


def max_passes(model: nn.Module, mine: int, device: torch.device | str) -> tuple[int, bool]:
    """How many passes of a sharded model its workers run; every worker must call it with the number that it needs.

    Returns:
        The most that any worker needs, and whether some worker needs none. For a model that is not sharded: `mine`,
        False.
    """
    if not is_sharded(model):
        return mine, False
    count = torch.tensor([mine, int(mine == 0)], device=device)
    dist.all_reduce(count, dist.ReduceOp.MAX)
    most, without = count.tolist()
    return most, bool(without)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor's full value, without gradient; for a shard every worker must call it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_sharded_tensor(tensor) else tensor


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor as another one is stored: this worker's shard of it if that is sharded."""
    value = value.to(like.device)
    if not is_sharded_tensor(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def full_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state dict with full tensors, as with replicas; every worker must call it."""
    state = optimizer.state_dict()
    return {**state, "state": _mapped(state["state"], lambda _number, value: full_tensor(value).cpu())}


def load_full_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of `full_state`, with these workers' shards of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def shard_of(number: int, value: Tensor) -> Tensor:
        # The count of steps, which does not have its parameter's shape, is not sharded.
        return shard_like(value, parameters[number]) if value.shape == parameters[number].shape else value

    optimizer.load_state_dict({**state, "state": _mapped(state["state"], shard_of)})


def _mapped(state: dict[int, dict[str, Any]], change: Callable[[int, Tensor], Tensor]) -> dict[int, dict[str, Any]]:
    return {
        number: {name: change(number, value) if isinstance(value, Tensor) else value for name, value in slots.items()}
        for number, slots in state.items()
    }
