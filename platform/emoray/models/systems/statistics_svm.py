"""The baseline without a network: support vector machines on statistics of a clip's features.

Shapes: N training clips, B batch, F features, S statistics = 3F, C classes, P pairs of classes, 3 = (valence, arousal,
dominance).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emoray.errors import ConfigError
from emoray.models.batch import Batch, Output, frame_mask
from emoray.models.config import ModelConfig
from emoray.models.heads import LABEL_CENTER, feature_width
from emoray.models.pooling import mean_deviation
from emoray.schema import DIMENSIONS

#: Logit of a class that no training clip has.
NEVER = -1e4


class StatisticsSvm(nn.Module):
    """Mean, deviation and maximum of each feature over time, standardised; support vector machines on them [ours].

    Each dimension has a regression, the classes have a machine for each pair, weighted as if the classes were equally
    frequent; the kernel is RBF. scikit-learn (LIBSVM) finds them. What it found is kept as buffers, a row per training
    clip and zeros in the rest of `model.statistics_svm.max_clips` rows, so that a version holds numbers only and no
    pickle. Logits are the votes of the pairs with their margins as fractions, scikit-learn's one-versus-rest values:
    their order means something, their softmax is not calibrated. Before `fit` it predicts the middle of the scale.

    Raises:
        ConfigError: The front-end gives waveforms.
    """

    mean_S: Tensor
    scale_S: Tensor
    support_NS: Tensor
    gamma: Tensor
    regression_N3: Tensor
    bias_3: Tensor
    pair_NP: Tensor
    bias_P: Tensor
    known_C: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.encoder.kind == "ssl":
            raise ConfigError(
                "statistics of a waveform over time are meaningless",
                where="model.encoder.kind",
                remedy="Use model.encoder.kind=logmel, moonshine or moonshine_logmel",
            )
        self._c, clips = config.statistics_svm.c, config.statistics_svm.max_clips
        width, classes = 3 * feature_width(config.encoder), len(config.classes)
        self._pairs = list(itertools.combinations(range(classes), 2))
        for name, value in {
            "mean_S": torch.zeros(width),
            "scale_S": torch.ones(width),
            "support_NS": torch.zeros(clips, width),
            "gamma": torch.tensor(1 / width),
            "regression_N3": torch.zeros(clips, len(DIMENSIONS)),
            "bias_3": torch.full((len(DIMENSIONS),), LABEL_CENTER),
            "pair_NP": torch.zeros(clips, len(self._pairs)),
            "bias_P": torch.zeros(len(self._pairs)),
            "known_C": torch.ones(classes, dtype=torch.bool),
        }.items():
            self.register_buffer(name, value)

    @property
    def max_clips(self) -> int:
        """Most clips that it can be fitted to."""
        return len(self.support_NS)

    def statistics(self, batch: Batch) -> Tensor:
        """Statistics (B, S) of each clip: means, deviations, maxima."""
        mask_BT = frame_mask(batch.lengths_B, batch.features_BTF.shape[1])
        greatest_BF = batch.features_BTF.masked_fill(~mask_BT.unsqueeze(-1), -torch.inf).amax(1)
        return torch.cat([mean_deviation(batch.features_BTF, mask_BT), greatest_BF], dim=-1)

    def fit(self, statistics_NS: Tensor, target_N3: Tensor, label_N: Tensor) -> None:
        """Fit to at most `max_clips` clips with labels (NaN where unlabelled) and class indices (−1).

        A dimension without labels keeps the middle of the scale; classes without a clip are never predicted.
        """
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC, SVR

        scaler = StandardScaler().fit(statistics_NS.double().numpy())
        inputs_NS = scaler.transform(statistics_NS.double().numpy())
        gamma = 1 / (inputs_NS.shape[1] * max(float(inputs_NS.var()), 1e-12))
        self.mean_S.copy_(torch.from_numpy(scaler.mean_))
        self.scale_S.copy_(torch.from_numpy(scaler.scale_))
        self.support_NS.zero_()[: len(inputs_NS)] = torch.from_numpy(inputs_NS)
        self.gamma.fill_(gamma)
        self.regression_N3.zero_()
        for d in range(len(DIMENSIONS)):
            rows = np.flatnonzero(target_N3[:, d].isfinite().numpy())
            if len(rows):
                machine = SVR(C=self._c, gamma=gamma, epsilon=0.05).fit(inputs_NS[rows], target_N3[rows, d].numpy())
                self.regression_N3[rows[machine.support_], d] = torch.from_numpy(machine.dual_coef_[0]).float()
                self.bias_3[d] = float(machine.intercept_[0])
        self.pair_NP.zero_()
        known = label_N[label_N >= 0].unique().tolist()
        if self._pairs and known:
            self.known_C.zero_()[known] = True
        if len(known) > 1:
            rows = np.flatnonzero(label_N.numpy() >= 0)
            labels_N = label_N.numpy()[rows]
            self._keep_pairs(
                SVC(C=self._c, gamma=gamma, class_weight="balanced").fit(inputs_NS[rows], labels_N), rows, labels_N
            )

    def _keep_pairs(self, machine: Any, rows: np.ndarray, labels_N: np.ndarray) -> None:
        """Sort LIBSVM's coefficients by pair: those of class i against j stand in row j − 1, of j against i in row i.

        A positive value votes for the first class of a pair; scikit-learn turns the sign where there are only two.
        """
        support, sign = machine.support_, -1.0 if len(machine.classes_) == 2 else 1.0
        for number, (i, j) in enumerate(itertools.combinations(range(len(machine.classes_)), 2)):
            pair = self._pairs.index((int(machine.classes_[i]), int(machine.classes_[j])))
            for own, row in ((i, j - 1), (j, i)):
                mine = np.flatnonzero(labels_N[support] == machine.classes_[own])
                coefficient = torch.from_numpy(sign * machine.dual_coef_[row, mine]).float()
                self.pair_NP[rows[support[mine]], pair] = coefficient
            self.bias_P[pair] = sign * float(machine.intercept_[number])

    def forward(self, batch: Batch) -> Output:
        """Score a batch."""
        inputs_BS = (self.statistics(batch) - self.mean_S) / self.scale_S
        # Without matrix products, whose rounding would depend on the batch.
        distance_BN = torch.cdist(inputs_BS, self.support_NS, compute_mode="donot_use_mm_for_euclid_dist")
        kernel_BN = torch.exp(-self.gamma * distance_BN.square())
        prediction_B3 = kernel_BN @ self.regression_N3 + self.bias_3
        if not self._pairs:
            return Output(prediction_B3)
        return Output(prediction_B3, self._logits(kernel_BN @ self.pair_NP + self.bias_P))

    def _logits(self, margin_BP: Tensor) -> Tensor:
        """Votes of the pairs of known classes, and as a fraction of a third the sum of their margins, (B, C)."""
        votes_BC = margin_BP.new_zeros(len(margin_BP), len(self.known_C))
        margins_BC = torch.zeros_like(votes_BC)
        for pair, (i, j) in enumerate(self._pairs):
            if bool(self.known_C[i] & self.known_C[j]):
                for own, value_B in ((i, margin_BP[:, pair]), (j, -margin_BP[:, pair])):
                    votes_BC[:, own] += value_B > 0 if own == i else value_B >= 0
                    margins_BC[:, own] += value_B
        logits_BC = votes_BC + margins_BC / (3 * (margins_BC.abs() + 1))
        return logits_BC.masked_fill(~self.known_C, NEVER)
