"""Objectives over a whole global batch.

CCC is not a mean over workers or micro-batches: the Learner gathers all predictions and takes the gradient of the whole
batch. Shapes: N clips, C classes, E experts, R regions, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emoray.errors import TrainingError
from emoray.models.config import Regions
from emoray.models.regions import region_count, region_of
from emoray.schema import DIMENSIONS
from emoray.training.config import ObjectiveConfig
from emoray.training.global_batch import GlobalBatch

#: Keeps CCC of two constants at 0 instead of 0 / 0; far below the variance of any label.
EPSILON = 1e-8


def ccc(prediction_N: Tensor, target_N: Tensor) -> Tensor:
    """Concordance correlation coefficient (Lin, 1989) with population variances.

    CCC = 2 cov(p, y) / (var p + var y + (mean p − mean y)²). torchmetrics differs: it divides the covariance and
    variances by n − 1.

    Returns:
        A scalar; 0 for fewer than two clips, or two constants that agree.
    """
    prediction_N, target_N = prediction_N.float(), target_N.float()
    if prediction_N.numel() == 0:
        return prediction_N.sum()
    mean_p, mean_y = prediction_N.mean(), target_N.mean()
    residual_p, residual_y = prediction_N - mean_p, target_N - mean_y
    spread = residual_p.square().mean() + residual_y.square().mean() + (mean_p - mean_y).square()
    return 2 * (residual_p * residual_y).mean() / (spread + EPSILON)


def ccc_loss(prediction_N3: Tensor, target_N3: Tensor) -> Tensor:
    """Σ_d (1 − CCC_d) over the labelled clips of each dimension (NaN = unlabelled).

    A dimension with fewer than two labelled clips has no CCC and does not count.
    """
    loss = prediction_N3.new_zeros((), dtype=torch.float32)
    for d in range(len(DIMENSIONS)):
        labelled = ~target_N3[:, d].isnan()
        if int(labelled.sum()) > 1:
            loss = loss + 1 - ccc(prediction_N3[labelled, d], target_N3[labelled, d])
    return loss


def category_loss(logits_NC: Tensor, label_N: Tensor, class_weight_C: Tensor, *, as_released: bool = False) -> Tensor:
    """Class-weighted cross-entropy over the labelled clips (−1 = unlabelled); 0 if there are none.

    The mean is over the clips' weights. `as_released` is the perspective loss (arXiv 2304.03899) as released [code]:
    the sum of −w_y log softmax(softmax(l))_y, with the softmax applied twice.
    """
    labelled = label_N >= 0
    if not bool(labelled.any()):
        return logits_NC.sum() * 0
    if as_released:
        probability_NC = logits_NC[labelled].float().softmax(-1)
        return nn.functional.cross_entropy(probability_NC, label_N[labelled], weight=class_weight_C, reduction="sum")
    return nn.functional.cross_entropy(logits_NC[labelled].float(), label_N[labelled], weight=class_weight_C)


def class_weights(label_N: Tensor, classes: int) -> Tensor:
    """N / (C · n_c) of a training split; 0 for a class without a clip."""
    count_C = torch.bincount(label_N[label_N >= 0], minlength=classes).float()
    return torch.where(count_C > 0, count_C.sum() / (classes * count_C.clamp_min(1)), 0.0)


def load_balance(router_N3E: Tensor, sent_N3E: Tensor) -> Tensor:
    """Load balance of Switch Transformers (arXiv 2101.03961): E Σ_i f_i P_i, mean over the dimensions.

    P_i is the mean of the router's softmax. f_i is the share of clips sent to the expert, those with a weight in
    `sent_N3E` (with dense routing, those with the largest).
    """
    experts = router_N3E.shape[-1]
    used = (sent_N3E > 0).float()
    if bool((used.sum(-1) == experts).all()):
        used = nn.functional.one_hot(sent_N3E.argmax(-1), experts).float()
    fraction_3E = (used / used.sum(-1, keepdim=True)).mean(0)
    return experts * (fraction_3E * router_N3E.float().mean(0)).sum(-1).mean()


def region_share(epoch: int, config: ObjectiveConfig) -> float:
    """λ(e) of EmoSphere-SER (arXiv 2505.19693) [code]: 1 − .99 e / E in the first E epochs, then the floor.

    In the release it falls from 1 towards .01 over five epochs, and then there is no region loss: a floor of 0.
    """
    return 1 - 0.99 * epoch / config.region_epochs if epoch < config.region_epochs else config.region_floor


@dataclass(frozen=True)
class RegionTargets:
    """Targets of the region loss.

    Attributes:
        regions: How the label space is divided.
        weight_R: Class weights of the train split, N / (R · n_r); 0 for a region without a clip [code].
    """

    regions: Regions
    weight_R: Tensor

    @classmethod
    def fit(cls, target_N3: Tensor, regions: Regions) -> RegionTargets:
        """Compute the weights from the labels of the train split, NaN where unlabelled."""
        return cls(regions, class_weights(region_of(target_N3, regions), region_count(regions)))


class Objective:
    """The loss of a batch as a whole; with separately trained branches, the sum over them.

    Perspective loss (arXiv 2304.03899): CE(l_f) + δ Σ_m CE(l_m) of the fused logits and of each modality's.

    Args:
        class_weight_C: Class weights of the train split, for a categorical head.
        regions: Targets of the region loss, for a model with a region head.
    """

    def __init__(
        self, config: ObjectiveConfig, class_weight_C: Tensor | None = None, regions: RegionTargets | None = None
    ) -> None:
        self.config = config
        self._class_weight_C = class_weight_C
        self._regions = regions

    def __call__(self, batch: GlobalBatch, epoch: int = 0) -> dict[str, Tensor]:
        """The terms of the loss in an epoch, and their weighted sum as `loss`.

        Raises:
            TrainingError: The model has a region head, and there are no targets for it.
        """
        config = self.config
        terms: dict[str, Tensor] = {}
        terms["loss_ccc"] = torch.stack(
            [ccc_loss(prediction, batch.target_N3) for prediction, _ in batch.trained]
        ).sum()
        loss = config.ccc * terms["loss_ccc"]
        logits = [logits_NC for _, logits_NC in batch.trained if logits_NC is not None]
        if config.category and logits:
            weight_C = self._class_weight_C
            weight_C = logits[0].new_ones(logits[0].shape[1]) if weight_C is None else weight_C.to(logits[0].device)
            terms["loss_category"] = self._category_loss(logits, batch.label_N, weight_C)
            loss = loss + config.category * terms["loss_category"]
            if config.modalities and batch.modality_logits_NMC is not None:
                own = batch.modality_logits_NMC.unbind(1)
                terms["loss_modalities"] = self._category_loss(own, batch.label_N, weight_C)
                loss = loss + config.category * config.modalities * terms["loss_modalities"]
        if config.load_balance and batch.router_N3E is not None and batch.experts_N3E is not None:
            # Clips without a label only replace missing work of a worker: they must not count.
            counted = ~batch.target_N3.isnan().all(1) | (batch.label_N >= 0)
            terms["load_balance"] = load_balance(batch.router_N3E[counted], batch.experts_N3E[counted])
            loss = loss + config.load_balance * terms["load_balance"]
        share = config.region * region_share(epoch, config)
        if share and batch.regions_NR is not None:
            terms["loss_region"] = self._region_loss(batch.regions_NR, batch.target_N3)
            loss = loss + share * terms["loss_region"]
        terms["loss"] = loss
        return terms

    def _category_loss(self, logits: Sequence[Tensor], label_N: Tensor, weight_C: Tensor) -> Tensor:
        as_released = self.config.as_released
        return torch.stack([category_loss(one, label_N, weight_C, as_released=as_released) for one in logits]).sum()

    def _region_loss(self, regions_NR: Tensor, target_N3: Tensor) -> Tensor:
        if self._regions is None:
            raise TrainingError(
                "the model has a region head, but its learner has no region targets",
                remedy="Fit them to the train split (RegionTargets.fit), or set train.objective.region=0",
                kind="missing_regions",
            )
        label_N = region_of(target_N3, self._regions.regions)
        return category_loss(regions_NR, label_N, self._regions.weight_R.to(regions_NR.device))
