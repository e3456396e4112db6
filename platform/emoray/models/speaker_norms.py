"""Features measured against what is usual for their speaker.

Shapes: N clips, B batch, T frames, F features, M measures = 2F (`emoray.models.frontend.clip_measures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emoray.models.batch import Batch, frame_mask


class SpeakerNorms(nn.Module):
    """Shifts and scales each feature by its usual mean and deviation for the speaker, or for the corpus [ours].

    What is usual of a speaker is a weighted mean of the corpus and of the speaker's own n enrolment clips, with the
    weight n·b / (n·b + w) of the latter: b is the variance of a measure between speakers, w that between the clips of
    one (the moments of a one-way analysis of variance). So an unknown speaker is measured against the corpus, and five
    clips count as much as they tell. The norms of prosody are found in the same way (`emoray.stages.norms`).

    Before `fit` it changes nothing.
    """

    mean_M: Tensor
    within_M: Tensor
    between_M: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name, value in (("mean_M", 0.0), ("within_M", 1.0), ("between_M", 0.0)):
            self.register_buffer(name, torch.full((2 * features,), value))

    def fit(self, measures_NM: np.ndarray, speakers: Sequence[str | None]) -> None:
        """Fit to clips of a train split and their speakers (None: unknown)."""
        mean_M = measures_NM.mean(0, dtype=np.float64)
        known = [place for place, speaker in enumerate(speakers) if speaker is not None]
        _, who_N, sizes_S = np.unique([speakers[place] for place in known], return_inverse=True, return_counts=True)
        if len(sizes_S) < 2 or len(known) <= len(sizes_S):
            # Speakers cannot be distinguished from clips: one clip of a speaker counts as much as the corpus.
            within_M = between_M = measures_NM.var(0, dtype=np.float64) / 2
        else:
            own_NM = measures_NM[known].astype(np.float64)
            means_SM = np.zeros((len(sizes_S), len(mean_M)))
            np.add.at(means_SM, who_N, own_NM)
            means_SM /= sizes_S[:, None]
            whole_M = own_NM.mean(0)
            within_M = ((own_NM - means_SM[who_N]) ** 2).sum(0) / (len(known) - len(sizes_S))
            spread_M = (sizes_S[:, None] * (means_SM - whole_M) ** 2).sum(0) / (len(sizes_S) - 1)
            effective = (len(known) - (sizes_S**2).sum() / len(known)) / (len(sizes_S) - 1)
            between_M = ((spread_M - within_M) / effective).clip(0)
        for name, value_M in (("mean_M", mean_M), ("within_M", within_M), ("between_M", between_M)):
            getattr(self, name).copy_(torch.from_numpy(value_M))

    def forward(self, batch: Batch) -> Batch:
        """The batch with its features as they differ from the usual; zero beyond each clip's length."""
        usual_BM = self.mean_M.expand(len(batch), -1)
        if batch.speaker_BM is not None:
            assert batch.enrolled_B is not None, "a speaker's measures come with the number of clips"
            known_BM = batch.enrolled_B[:, None] * self.between_M
            weight_BM = known_BM / (known_BM + self.within_M).clamp_min(torch.finfo(torch.float32).tiny)
            usual_BM = usual_BM + weight_BM * (batch.speaker_BM - usual_BM)
        shift_BF, scale_BF = usual_BM.chunk(2, dim=-1)
        features_BTF = (batch.features_BTF - shift_BF[:, None]) * (-scale_BF[:, None]).exp()
        padding_BT = ~frame_mask(batch.lengths_B, features_BTF.shape[1])
        return replace(batch, features_BTF=features_BTF.masked_fill(padding_BT.unsqueeze(-1), 0))


def add_speaker_norms(model: nn.Module, features: int) -> None:
    """Let a model see features through `SpeakerNorms`, its submodule `speaker_norms`, whichever model it is."""
    model.speaker_norms = SpeakerNorms(features)
    model.register_forward_pre_hook(_normalise)


def _normalise(model: Any, arguments: tuple[Batch, ...]) -> tuple[Batch, ...]:
    return (model.speaker_norms(arguments[0]), *arguments[1:])
