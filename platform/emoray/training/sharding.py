"""Full sharding (FSDP2): each worker holds its share of every weight, of its gradient and of its optimiser state.

Sharded workers run every forward and backward pass together, since each one gathers weights from all. Whoever has fewer
micro-batches than another keeps pace with passes that count for nothing (`max_passes`). Files hold whole tensors
(`whole_state`), so that any number of workers, sharded or not, can go on from them.
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
    """Spread a model's weights over the workers, in place; they all hold the same whole ones before.

    The layers of an encoder are gathered one at a time, everything else together. Weights are gathered as they are
    kept, in float32: what is computed in bf16 is autocast's choice, as with replicas, so that both train alike.

    Args:
        model: On its device.
        device: Where the collectives run: NCCL's on a GPU, gloo's on a CPU.
    """
    # Imported here: takes over a second, and replicas need none of it.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    # WavLM's layers give views, of which nothing is changed in place; FSDP warns of it in each pass.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in [*encoder_layers(model), model]:
        # Also the root gives its weights back after each pass: outside of passes all that is visible are shares.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    assert isinstance(model, FSDPModule)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            # The loss is one of the whole batch: gradients add up. FSDP would take their mean.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other reduction with a factor
    # A weight that some worker's clips leave unused counts as zero there, else collectives would not match.
    model.set_reduce_scatter_unused_params(True)


def is_sharded(model: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether `shard` has had the model."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # nothing is sharded where nobody imported it
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def is_sharded_tensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a worker's share of one."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def backward(model: nn.Module, values: Sequence[Tensor], slopes: Sequence[Tensor | None], *, last: bool) -> None:
    """Take a micro-batch backward.

    Args:
        model: The model; sharded, its gradients are summed over the workers after the last micro-batch only.
        values: Outputs of the model.
        slopes: Gradient of the loss in each; None where the loss does not depend on it.
        last: Whether it is the step's last on this worker.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(last)
        # Every output takes part, so that all workers pass the layers in the same order whatever their clips are.
        slopes = [
            torch.zeros_like(value) if slope is None else slope for value, slope in zip(values, slopes, strict=True)
        ]
    pairs = [(value, slope) for value, slope in zip(values, slopes, strict=True) if slope is not None]
    pairs = [(value, slope) for value, slope in pairs if value.requires_grad]
    if pairs:
        torch.autograd.backward([value for value, _ in pairs], [slope for _, slope in pairs])


def max_passes(model: nn.Module, mine: int, device: torch.device | str) -> tuple[int, bool]:
    """How many passes of a sharded model its workers make together; every worker asks.

    Args:
        model: The model.
        mine: How many passes this worker has use for.
        device: Where the model is.

    Returns:
        The most that any worker has use for, and whether some worker has use for none. For a model that is not sharded,
        whose workers need not keep pace: `mine`, and False.
    """
    if not is_sharded(model):
        return mine, False
    count = torch.tensor([mine, int(mine == 0)], device=device)
    dist.all_reduce(count, dist.ReduceOp.MAX)
    most, without = count.tolist()
    return most, bool(without)


def whole(tensor: Tensor) -> Tensor:
    """A tensor's value over all workers, without gradient; of a shard every worker has to ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_sharded_tensor(tensor) else tensor


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as another is kept: this worker's share of it where that is sharded."""
    value = value.to(like.device)
    if not is_sharded_tensor(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state dict with whole tensors, as it would be with replicas; every worker has to ask for it."""
    state = optimizer.state_dict()
    return {**state, "state": _mapped(state["state"], lambda _number, value: whole(value).cpu())}


def load_whole_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put back what `whole_state` gave, with these workers' shares of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def share(number: int, value: Tensor) -> Tensor:
        # What has no shape of its parameter's, the count of steps, is no tensor that could be shared.
        return shard_like(value, parameters[number]) if value.shape == parameters[number].shape else value

    optimizer.load_state_dict({**state, "state": _mapped(state["state"], share)})


def _mapped(state: dict[int, dict[str, Any]], change: Callable[[int, Tensor], Tensor]) -> dict[int, dict[str, Any]]:
    return {
        number: {name: change(number, value) if isinstance(value, Tensor) else value for name, value in slots.items()}
        for number, slots in state.items()
    }
