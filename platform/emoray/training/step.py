"""One training step over a global batch, spread over workers and micro-batches.

Shapes: N clips of the global batch, L columns, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from emoray.errors import TrainingError
from emoray.models.batch import Batch
from emoray.models.cnn14_encoder import MaskedBatchNorm
from emoray.models.systems.late_fusion import separately_trained
from emoray.schema import DIMENSIONS
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.loader import WorkerBatch
from emoray.training.global_batch import (
    GlobalBatch,
    clip_shapes,
    from_matrix,
    from_output,
    loss_inputs,
    sizes_of,
    to_matrix,
)
from emoray.training.layers import prepare_layers
from emoray.training.objectives import Objective, RegionTargets, ccc
from emoray.training.optimizer import build_optimizer, lr_factor, plateau_factor
from emoray.training.seeds import seed_torch
from emoray.training.sharding import backward, full_tensor, is_sharded, max_passes, shard

#: Gradients are summed over workers in pieces of this many numbers: few messages, and no second copy of a large model.
REDUCE_NUMBERS = 16_777_216


@dataclass(frozen=True)
class _Pass:
    """One forward and backward pass: a micro-batch at its position in the global batch.

    One that does not count only matches passes of other workers: it has no gradient and changes no metric.
    """

    batch: Batch
    start: int
    counts: bool = True


class Learner:
    """A model and its optimiser; uses the process group, if there is one.

    The loss is a function of the whole global batch (CCC is no mean of parts). So predictions are gathered without
    gradient, the whole batch gives dL/dŷ, and each micro-batch is run again for its part of the backward pass (gradient
    caching, arXiv 2101.06983); a single micro-batch is not run twice. Gradients are summed over workers once, after the
    last micro-batch: not by DDP, whose collectives expect as many micro-batches on every worker, while a small batch
    can leave a worker without any. With sharding (`launch.sharding: full`) this is unavoidable: workers with fewer run
    additional passes that do not count.

    Args:
        model: The model; all workers start with rank 0's weights.
        total_steps: Steps of the whole run, for the schedule.
        class_weight_C: Class weights of the train split, for a categorical head.
        regions: Targets of the region loss, for a model with a region head.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        launch: LaunchConfig,
        *,
        total_steps: int,
        device: torch.device | str = "cpu",
        class_weight_C: Tensor | None = None,
        regions: RegionTargets | None = None,
    ) -> None:
        self.config, self.launch = config, launch
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.total_steps = total_steps
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._objective = Objective(config.objective, class_weight_C, regions)
        self._plateau = 1.0
        self._statistics = [
            buffer for part in self.model.modules() if isinstance(part, MaskedBatchNorm) for buffer in part.buffers()
        ]
        if self.world > 1:
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.data, src=0)
        prepare_layers(self.model, launch, self.device)
        if launch.sharding == "full" and self.world > 1:
            shard(self.model, self.device)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self._base_lr = [group["lr"] for group in self.optimizer.param_groups]

    def note_scores(self, scores: Sequence[float]) -> None:
        """Give the schedule the dev scores of all finished epochs."""
        if self.config.optimizer.schedule == "plateau":
            self._plateau = plateau_factor(scores, self.config.optimizer)

    def step(self, batch: WorkerBatch) -> dict[str, float]:
        """Train on one global batch; every worker calls it with its own part.

        Returns:
            Terms of the loss and CCC of the whole batch, learning rate and gradient norm: the same on every worker.

        Raises:
            TrainingError: A prediction, the loss or the gradient is not finite; names the clips. No weight changes.
        """
        self.model.train()
        factor = lr_factor(batch.step, self.total_steps, self.config.optimizer) * self._plateau
        for group, base in zip(self.optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * factor
        self.optimizer.zero_grad(set_to_none=True)
        local = self.config.objective.ccc_scope == "local"
        terms, gathered = (self._local_backward if local else self._global_backward)(self._work(batch), batch)
        self._sum_gradients()
        most = self.config.optimizer.clip_norm or math.inf
        norms = [full_tensor(clip_grad_norm_(part.parameters(), most)) for part in separately_trained(self.model)]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        if not bool(torch.isfinite(norm)):
            raise self._stop("the gradient is not finite", batch, torch.ones(batch.clips, dtype=torch.bool))
        self.optimizer.step()
        self._average_statistics()
        metrics = {name: float(value) for name, value in terms.items()}
        for d, name in enumerate(DIMENSIONS):
            labelled = ~gathered.target_N3[:, d].isnan()
            prediction_N = gathered.prediction_N3[labelled, d].detach()
            metrics[f"ccc_{name}"] = float(ccc(prediction_N, gathered.target_N3[labelled, d]))
        return {**metrics, "lr": self.optimizer.param_groups[-1]["lr"], "grad_norm": float(norm)}

    def _global_backward(self, work: list[_Pass], batch: WorkerBatch) -> tuple[dict[str, Tensor], GlobalBatch]:
        single = len(work) == 1
        with torch.set_grad_enabled(single):
            parts = [self._forward(one, batch.step) for one in work]
        gathered = self._gather([part for part, one in zip(parts, work, strict=True) if one.counts])
        leaves = [tensor.requires_grad_() for tensor in loss_inputs(gathered)]
        terms = self._checked_terms(gathered, batch)
        slopes = _slopes(terms["loss"], leaves)
        for number, (one, first) in enumerate(zip(work, parts, strict=True), 1):
            values = loss_inputs(first if single else self._forward(one, batch.step))
            mine = [None if slope is None else slope[one.start : one.start + len(one.batch)] for slope in slopes]
            backward(self.model, values, mine if one.counts else [None] * len(values), last=number == len(work))
        return {name: value.detach() for name, value in terms.items()}, gathered

    def _local_backward(self, work: list[_Pass], batch: WorkerBatch) -> tuple[dict[str, Tensor], GlobalBatch]:
        """Each micro-batch with its own CCC, weighted by its clips, as in papers with gradient accumulation."""
        counted = []
        for number, one in enumerate(work, 1):
            part = self._forward(one, batch.step)
            values = loss_inputs(part)
            slopes: Sequence[Tensor | None] = [None] * len(values)
            if one.counts:
                alone = from_matrix(to_matrix(part), clip_shapes(*sizes_of(part)))
                leaves = [tensor.requires_grad_() for tensor in loss_inputs(alone)]
                loss = self._objective(alone, batch.epoch)["loss"] * (len(one.batch) / batch.clips)
                slopes = _slopes(loss, leaves)
                counted.append(alone)
            backward(self.model, values, slopes, last=number == len(work))
        gathered = self._gather(counted)
        return self._checked_terms(gathered, batch), gathered

    def _work(self, batch: WorkerBatch) -> list[_Pass]:
        """This worker's micro-batches; if other sharded workers have more, also passes that do not count."""
        starts = [batch.start + sum(map(len, batch.batches[:index])) for index in range(len(batch.batches))]
        work = [_Pass(micro.to(self.device), start) for micro, start in zip(batch.batches, starts, strict=True)]
        most, some_have_none = max_passes(self.model, len(work), self.device)
        clip = batch.batches[0].slice(0, 1) if batch.batches else None
        if some_have_none:
            received = [clip]
            dist.broadcast_object_list(received, src=0)  # the first worker has clips in every step
            clip = received[0] if clip is None else clip
        if most > len(work):
            assert clip is not None
            work += [_Pass(clip.to(self.device), batch.start, counts=False)] * (most - len(work))
        return work

    def _forward(self, one: _Pass, step: int) -> GlobalBatch:
        # The same dropout in both passes, and on any worker.
        seed_torch(self.config.seed, "dropout", step, one.start)
        before = [] if one.counts else [statistic.clone() for statistic in self._statistics]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            output = self.model(one.batch)
        for statistic, value in zip(self._statistics, before, strict=False):
            statistic.copy_(value)
        return from_output(output, one.batch)

    def _gather(self, parts: list[GlobalBatch]) -> GlobalBatch:
        """The global batch on every worker, without gradient, in the order of the plan."""
        clips, sizes = [sum(len(part.prediction_N3) for part in parts)], sizes_of(parts[0] if parts else None)
        if self.world > 1:
            # How many clips each worker has, and the sizes of the model's outputs, for a worker without clips.
            mine = torch.tensor([clips[0], *sizes], device=self.device)
            counts = [torch.empty_like(mine) for _ in range(self.world)]
            dist.all_gather(counts, mine)
            clips = [int(one[0]) for one in counts]
            sizes = torch.stack(counts)[:, 1:].amax(0).tolist()
        shapes = clip_shapes(*sizes)
        columns = sum(math.prod(shape) for shape in shapes.values())
        rows = [to_matrix(part) for part in parts]
        matrix_NL = torch.cat(rows) if rows else torch.zeros(0, columns, device=self.device)
        if self.world > 1:
            padded = matrix_NL.new_zeros(max(clips), columns)
            padded[: len(matrix_NL)] = matrix_NL
            received = [torch.empty_like(padded) for _ in range(self.world)]
            dist.all_gather(received, padded)
            matrix_NL = torch.cat([part[:count] for part, count in zip(received, clips, strict=True)])
        return from_matrix(matrix_NL, shapes)

    def _checked_terms(self, gathered: GlobalBatch, batch: WorkerBatch) -> dict[str, Tensor]:
        bad_N = torch.zeros(batch.clips, dtype=torch.bool)
        for tensor in loss_inputs(gathered):
            bad_N |= ~tensor.detach().isfinite().flatten(1).all(1).cpu()
        if bool(bad_N.any()):
            raise self._stop("the model's output is not finite", batch, bad_N)
        terms = self._objective(gathered, batch.epoch)
        if not bool(torch.isfinite(terms["loss"])):
            raise self._stop("the loss is not finite", batch, torch.ones(batch.clips, dtype=torch.bool))
        return terms

    def _stop(self, what: str, batch: WorkerBatch, bad_N: Tensor) -> TrainingError:
        ids = [name for micro in batch.batches for name in micro.utterance_ids]
        if self.world > 1:
            received: list[list[str]] = [[] for _ in range(self.world)]
            dist.all_gather_object(received, ids)
            ids = [name for part in received for name in part]
        named = [name for name, bad in zip(ids, bad_N.tolist(), strict=True) if bad]
        shown = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
        return TrainingError(
            f"{what} for {shown}",
            where=f"step {batch.step}",
            remedy="Check these clips (NaN or extreme samples, labels off the scale), or lower train.optimizer.lr",
            kind="non_finite_loss",
        )

    def _sum_gradients(self) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in parameters:
            # On one worker, too: AdamW skips a missing gradient, but decays the weight of a zero one.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world == 1 or is_sharded(self.model):
            return
        for group in _pieces(parameters):
            flat = torch.cat([parameter.grad.flatten() for parameter in group if parameter.grad is not None])
            dist.all_reduce(flat)
            for parameter, part in zip(group, flat.split([parameter.numel() for parameter in group]), strict=True):
                parameter.grad = part.view_as(parameter)

    def _average_statistics(self) -> None:
        """Average batch normalisation's running values over the workers: all evaluate and resume with the same."""
        if self.world > 1 and self._statistics:
            flat = torch.cat(self._statistics)
            dist.all_reduce(flat)
            flat /= self.world
            for buffer, part in zip(self._statistics, flat.split([len(one) for one in self._statistics]), strict=True):
                buffer.copy_(part)


def _slopes(loss: Tensor, leaves: list[Tensor]) -> Sequence[Tensor | None]:
    """Gradient of the loss in each; None if it does not depend on one, as without any labelled clip."""
    return torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else [None] * len(leaves)


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
