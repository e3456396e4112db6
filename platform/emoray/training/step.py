"""One training step over a global batch, spread over workers and micro-batches.

Shapes: N clips of the global batch, M columns, C classes, E experts, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from emoray.errors import TrainingError
from emoray.models import Batch, Output
from emoray.models.encoders import pretrained_parameters
from emoray.schema import DIMENSIONS
from emoray.training.config import OptimizerConfig, TrainConfig
from emoray.training.loader import Share
from emoray.training.objectives import Gathered, Objective, ccc
from emoray.training.seeds import seed_torch

#: Gradients are summed over workers in pieces of this many numbers: few messages, and no second copy of a large model.
REDUCE_NUMBERS = 16_777_216


class Learner:
    """A model and its optimiser; knows its process group if there is one.

    The loss is a function of the whole global batch (CCC is no mean of parts). So predictions are gathered without
    gradient, the whole gives dL/dŷ, and each micro-batch is run again and takes its part backward (gradient caching,
    arXiv 2101.06983); a single micro-batch is not run twice. Gradients are summed over workers once, after the last
    micro-batch: not DDP, whose collectives expect as many micro-batches on every worker, where a small batch can leave
    a worker without any.

    Args:
        model: The model; all workers begin with rank 0's weights.
        config: Seed, objective, optimiser and precision.
        total_steps: Steps of the whole run, for the schedule.
        device: Where to train.
        class_weight_C: Class weights of the train split, for a categorical head.

    Attributes:
        model: The model, on its device.
        config: As given.
        rank: This worker.
        world: How many workers there are.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        *,
        total_steps: int,
        device: torch.device | str = "cpu",
        class_weight_C: Tensor | None = None,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.total_steps = total_steps
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._objective = Objective(config.objective, class_weight_C)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self._base_lr = [group["lr"] for group in self.optimizer.param_groups]
        if self.world > 1:
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def step(self, share: Share) -> dict[str, float]:
        """Train on one global batch; every worker calls it with its own share.

        Returns:
            Terms of the loss and CCC of the whole batch, learning rate and gradient norm: the same on every worker.

        Raises:
            TrainingError: A prediction, the loss or the gradient is not finite; names the clips. No weight changes.
        """
        self.model.train()
        factor = lr_factor(share.step, self.total_steps, self.config.optimizer)
        for group, base in zip(self.optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * factor
        self.optimizer.zero_grad(set_to_none=True)
        batches = [batch.to(self.device) for batch in share.batches]
        starts = [share.start + sum(map(len, batches[:index])) for index in range(len(batches))]
        local = self.config.objective.ccc_scope == "local"
        if local:
            terms, whole = self._local_backward(batches, starts, share)
        else:
            terms, whole = self._global_backward(batches, starts, share)
        self._sum_gradients()
        norm = clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise self._stop("the gradient is not finite", share, torch.ones(share.clips, dtype=torch.bool))
        self.optimizer.step()
        metrics = {name: float(value) for name, value in terms.items()}
        for d, name in enumerate(DIMENSIONS):
            labelled = ~whole.target_N3[:, d].isnan()
            prediction_N = whole.prediction_N3[labelled, d].detach()
            metrics[f"ccc_{name}"] = float(ccc(prediction_N, whole.target_N3[labelled, d]))
        return {**metrics, "lr": self.optimizer.param_groups[-1]["lr"], "grad_norm": float(norm)}

    def _global_backward(
        self, batches: list[Batch], starts: list[int], share: Share
    ) -> tuple[dict[str, Tensor], Gathered]:
        single = len(batches) == 1
        with torch.set_grad_enabled(single):
            outputs = [self._forward(batch, share.step, start) for batch, start in zip(batches, starts, strict=True)]
        whole = self._gather(batches, outputs, share)
        leaves = [tensor.requires_grad_() for tensor in _inputs(whole)]
        terms = self._checked_terms(whole, share)
        slopes = torch.autograd.grad(terms["loss"], leaves, allow_unused=True)
        for batch, output, start in zip(batches, outputs, starts, strict=True):
            if not single:
                output = self._forward(batch, share.step, start)
            pairs = [
                (value, slope[start : start + len(batch)])
                for value, slope in zip(_inputs(_as_gathered(output, batch)), slopes, strict=True)
                if slope is not None
            ]
            torch.autograd.backward([value for value, _ in pairs], [slope for _, slope in pairs])
        return {name: value.detach() for name, value in terms.items()}, whole

    def _local_backward(
        self, batches: list[Batch], starts: list[int], share: Share
    ) -> tuple[dict[str, Tensor], Gathered]:
        """Each micro-batch by its own CCC, weighted by its clips, as papers with gradient accumulation have it."""
        outputs = []
        for batch, start in zip(batches, starts, strict=True):
            output = self._forward(batch, share.step, start)
            loss = self._objective(_as_gathered(output, batch))["loss"]
            (loss * (len(batch) / share.clips)).backward()
            outputs.append(output)
        whole = self._gather(batches, outputs, share)
        return self._checked_terms(whole, share), whole

    def _forward(self, batch: Batch, step: int, start: int) -> Output:
        # The same dropout in both passes, and whichever worker runs the micro-batch.
        seed_torch(self.config.seed, "dropout", step, start)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.model(batch)

    def _gather(self, batches: list[Batch], outputs: list[Output], share: Share) -> Gathered:
        """The global batch on every worker, without gradient, in the order of the plan."""
        parts = [_as_gathered(output, batch) for output, batch in zip(outputs, batches, strict=True)]
        classes = parts[0].logits_NC.shape[1] if parts and parts[0].logits_NC is not None else 0
        experts = parts[0].router_N3E.shape[2] if parts and parts[0].router_N3E is not None else 0
        if self.world > 1:
            shape = torch.tensor([classes, experts], device=self.device)
            dist.all_reduce(shape, op=dist.ReduceOp.MAX)
            classes, experts = (int(size) for size in shape)
        columns = 7 + classes + 6 * experts
        rows = [_pack(part) for part in parts]
        matrix_NM = torch.cat(rows) if rows else torch.zeros(0, columns, device=self.device)
        if self.world > 1:
            most = -(-share.clips // self.world)
            padded = matrix_NM.new_zeros(most, columns)
            padded[: len(matrix_NM)] = matrix_NM
            received = [torch.empty_like(padded) for _ in range(self.world)]
            dist.all_gather(received, padded)
            share_size, extra = divmod(share.clips, self.world)
            matrix_NM = torch.cat([part[: share_size + (rank < extra)] for rank, part in enumerate(received)])
        return _unpack(matrix_NM, classes, experts)

    def _checked_terms(self, whole: Gathered, share: Share) -> dict[str, Tensor]:
        bad_N = torch.zeros(share.clips, dtype=torch.bool)
        for tensor in _inputs(whole):
            bad_N |= ~tensor.detach().isfinite().flatten(1).all(1).cpu()
        if bool(bad_N.any()):
            raise self._stop("the model's output is not finite", share, bad_N)
        terms = self._objective(whole)
        if not bool(torch.isfinite(terms["loss"])):
            raise self._stop("the loss is not finite", share, torch.ones(share.clips, dtype=torch.bool))
        return terms

    def _stop(self, what: str, share: Share, bad_N: Tensor) -> TrainingError:
        ids = [name for batch in share.batches for name in batch.utterance_ids]
        if self.world > 1:
            received: list[list[str]] = [[] for _ in range(self.world)]
            dist.all_gather_object(received, ids)
            ids = [name for part in received for name in part]
        named = [name for name, bad in zip(ids, bad_N.tolist(), strict=True) if bad]
        shown = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
        return TrainingError(
            f"{what} for {shown}",
            where=f"step {share.step}",
            remedy="Look at these clips (NaN or extreme samples, labels off the scale), or lower train.optimizer.lr",
            kind="non_finite_loss",
        )

    def _sum_gradients(self) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in parameters:
            # Also on one worker: AdamW passes over a missing gradient, but decays the weight of a zero one.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world == 1:
            return
        for group in _pieces(parameters):
            flat = torch.cat([parameter.grad.flatten() for parameter in group if parameter.grad is not None])
            dist.all_reduce(flat)
            for parameter, part in zip(group, flat.split([parameter.numel() for parameter in group]), strict=True):
                parameter.grad = part.view_as(parameter)


def _pieces(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    pieces: list[list[nn.Parameter]] = [[]]
    numbers = 0
    for parameter in parameters:
        if pieces[-1] and (numbers + parameter.numel() > REDUCE_NUMBERS or parameter.dtype != pieces[-1][0].dtype):
            pieces.append([])
            numbers = 0
        pieces[-1].append(parameter)
        numbers += parameter.numel()
    return [piece for piece in pieces if piece]


def _inputs(gathered: Gathered) -> list[Tensor]:
    """The tensors that the loss has a gradient in."""
    return [
        tensor for tensor in (gathered.prediction_N3, gathered.logits_NC, gathered.router_N3E) if tensor is not None
    ]


def _as_gathered(output: Output, batch: Batch) -> Gathered:
    def single(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.float()

    return Gathered(
        prediction_N3=output.prediction_B3.float(),
        target_N3=batch.target_B3,
        label_N=batch.label_B,
        logits_NC=single(output.logits_BC),
        router_N3E=single(output.router_B3E),
        experts_N3E=single(output.experts_B3E),
    )


def _pack(part: Gathered) -> Tensor:
    optional = (part.logits_NC, part.router_N3E, part.experts_N3E)
    columns = [part.prediction_N3, part.target_N3, part.label_N[:, None].float()]
    columns += [tensor.flatten(1) for tensor in optional if tensor is not None]
    return torch.cat([column.detach() for column in columns], dim=1)


def _unpack(matrix_NM: Tensor, classes: int, experts: int) -> Gathered:
    sizes = [3, 3, 1, classes, 3 * experts, 3 * experts]
    prediction, target, label, logits, router, used = (part.clone() for part in matrix_NM.split(sizes, dim=1))
    return Gathered(
        prediction_N3=prediction,
        target_N3=target,
        label_N=label[:, 0].long(),
        logits_NC=logits if classes else None,
        router_N3E=router.unflatten(1, (3, experts)) if experts else None,
        experts_N3E=used.unflatten(1, (3, experts)) if experts else None,
    )


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with the encoder's own learning rate for pre-trained weights, and no decay on vectors."""
    pretrained = {id(parameter) for module in model.modules() for parameter in pretrained_parameters(module)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in pretrained, parameter.dim() > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.encoder_lr if from_checkpoint else config.lr,
                "weight_decay": config.weight_decay if matrix else 0.0,
            }
            for (from_checkpoint, matrix), parameters in sorted(groups.items(), key=lambda item: not item[0][0])
        ],
        betas=config.betas,
        fused=True,
    )


def lr_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Factor on the learning rates at a step: linear warm-up, then a cosine to zero or a constant."""
    warmup = math.ceil(config.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
