"""Late fusion: a model of the sound and a model of the text, combined in their outputs only.

Shapes: B batch, M branches, C classes, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import torch
from torch import nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.systems.acoustic import Acoustic
from emoray.models.systems.cnn14 import Cnn14
from emoray.models.systems.text import TextOnly


class LateFusion(nn.Module):
    """Late fusion: the mean of the outputs of an audio and a text model (baseline of arXiv 2110.06650 [text]).

    The branches are the models `cnn14` (over other encoders `acoustic`) and `text`. They share no weight, each has its
    own loss, and each one's gradient norm is clipped separately: a step changes each as if it were trained alone.
    Common are the batches, the schedule and the epoch, selected by the mean on dev [ours]. Classes: the mean of the
    probabilities. A clip without text has the score of the sound alone [ours].

    Raises:
        ConfigError: No granularity is left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.audio = Cnn14(config) if config.encoder.kind == "cnn14" else Acoustic(config)
        self.text = TextOnly(config)

    def forward(self, batch: Batch) -> Output:
        """Score a batch; the output also has each branch's outputs, which the loss is computed from."""
        audio, text = self.audio(batch), self.text(batch)
        reads_B = self.text.text.present(batch)
        weight_BM = torch.stack([torch.ones_like(reads_B), reads_B], dim=1).float()
        weight_BM1 = (weight_BM / weight_BM.sum(1, keepdim=True)).unsqueeze(-1)
        branches_BM3 = torch.stack([audio.prediction_B3, text.prediction_B3], dim=1)
        logits_BC = branch_logits_BMC = None
        if audio.logits_BC is not None:
            branch_logits_BMC = torch.stack([audio.logits_BC, text.logits_BC], dim=1)
            probability_BC = (weight_BM1 * branch_logits_BMC.softmax(-1)).sum(1)
            logits_BC = probability_BC.clamp_min(torch.finfo(probability_BC.dtype).tiny).log()
        return Output(
            (weight_BM1 * branches_BM3).sum(1),
            logits_BC,
            branches_BM3=branches_BM3,
            branch_logits_BMC=branch_logits_BMC,
        )


def separately_trained(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that training must not couple: the branches of late fusion, otherwise the whole model."""
    return [model.audio, model.text] if isinstance(model, LateFusion) else [model]
