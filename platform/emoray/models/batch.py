"""Input and output of a model.

Shapes: B batch, T frames, F features, K granularities in the order of `emoray.schema.GRANULARITIES` (LES, GS, ES),
E text width or experts, C classes, R regions, M branches or modalities, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from emoray.schema import GRANULARITIES


@dataclass(frozen=True)
class Batch:
    """Clips of one forward pass.

    Attributes:
        features_BTF: Front-end features, float32, zero beyond each clip's length.
        lengths_B: Valid frames of each clip, int64.
        text_BKE: Text vectors, zero where absent.
        present_BK: Which text vectors are present.
        target_B3: Labels in [0, 1]; NaN where unlabelled.
        label_B: Class index; -1 where unlabelled.
        utterance_ids: One id per clip.
        speaker_BM: Means of the measures of each speaker's enrolment clips (`emoray.models.speaker_norms`), any values
            where there are none. None: no speaker is known.
        enrolled_B: Number of these clips, 0 for an unknown speaker; None if `speaker_BM` is.
        dialogue_B: Number of each clip's dialogue, the same for all its turns. None: each clip is a dialogue.
        turn_B: Order of the clips of a dialogue, ascending; None if `dialogue_B` is.
    """

    features_BTF: Tensor
    lengths_B: Tensor
    text_BKE: Tensor
    present_BK: Tensor
    target_B3: Tensor
    label_B: Tensor
    utterance_ids: tuple[str, ...]
    speaker_BM: Tensor | None = None
    enrolled_B: Tensor | None = None
    dialogue_B: Tensor | None = None
    turn_B: Tensor | None = None

    def __len__(self) -> int:
        return len(self.utterance_ids)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device (copies from pinned memory do not block)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def slice(self, start: int, stop: int) -> Batch:
        """Clips start..stop, trimmed to the longest of them."""
        longest = int(self.lengths_B[start:stop].max())
        part = self._map(lambda tensor: tensor[start:stop])
        return replace(part, features_BTF=part.features_BTF[:, :longest], utterance_ids=self.utterance_ids[start:stop])

    def at_level(self, level: str) -> Batch:
        """The batch with the text vectors of a level of `LEVELS`."""
        keep = torch.tensor([name in LEVELS[level] for name in GRANULARITIES], device=self.present_BK.device)
        return replace(self, present_BK=self.present_BK & keep)

    def unlabelled(self) -> Batch:
        """The batch without its labels: such clips do not count in any objective."""
        return replace(
            self,
            target_B3=torch.full_like(self.target_B3, torch.nan),
            label_B=torch.full_like(self.label_B, -1),
        )

    def _map(self, change: object) -> Batch:
        assert callable(change)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: change(value) if isinstance(value, Tensor) else value for name, value in values.items()})


#: Semantic levels: the sets of text vectors that occur. The last three have no emphasised word, or no
#: words. Reports have rows of the first three; scores have intervals of all.
LEVELS: dict[str, tuple[str, ...]] = {
    "audio": (),
    "transcript": ("les", "gs"),
    "full": GRANULARITIES,
    "gs": ("gs",),
    "gs+es": ("gs", "es"),
    "es": ("es",),
}


def level_of(present: Collection[str], read: Collection[str]) -> str:
    """The level of the text vectors that a clip has, among those that a model reads."""
    return min(LEVELS, key=lambda name: len(set(LEVELS[name]).intersection(read) ^ set(present).intersection(read)))


@dataclass(frozen=True)
class Output:
    """A model's output for each clip.

    Attributes:
        prediction_B3: Valence, arousal, dominance on the label scale [0, 1], not clipped.
        logits_BC: Class logits, or None without a categorical head.
        gates_BK: Share of each granularity in the fused semantics (rows sum to 1; to 0 if all are absent), or None.
        experts_B3E: Weight of each expert for each dimension (rows sum to 1), or None.
        router_B3E: The router's full softmax, before any top-2 choice (`experts_B3E` if routing is dense), or None.
        regions_BR: Logits of the regions of the label space, or None without such a head.
        branches_BM3: Predictions of separately trained branches, or None; the loss then uses these instead of
            `prediction_B3`, which is computed from them.
        branch_logits_BMC: Their class logits, or None.
        modality_logits_BMC: Class logits of each modality, with their own loss beside that of `logits_BC`
            (`train.objective.modalities`), or None.
    """

    prediction_B3: Tensor
    logits_BC: Tensor | None = None
    gates_BK: Tensor | None = None
    experts_B3E: Tensor | None = None
    router_B3E: Tensor | None = None
    regions_BR: Tensor | None = None
    branches_BM3: Tensor | None = None
    branch_logits_BMC: Tensor | None = None
    modality_logits_BMC: Tensor | None = None


def frame_mask(lengths_B: Tensor, frames: int) -> Tensor:
    """Mask (B, T) of valid frames."""
    return torch.arange(frames, device=lengths_B.device)[None, :] < lengths_B[:, None]
