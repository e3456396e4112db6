"""MSF-SER: multi-granularity semantic fusion for speech emotion recognition (arXiv 2510.05749).

Shapes: B batch, K granularities, E text width or experts, D width, C classes, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emoray.models.batch import Batch, Output
from emoray.models.config import ModelConfig
from emoray.models.fusion import (
    ConcatMlp,
    CrossAttention,
    FilmMoe,
    GatedFusion,
    SemanticsProjection,
    granularity_indices,
)
from emoray.models.heads import LABEL_CENTER, ClassHead, PooledSound
from emoray.schema import DIMENSIONS, GRANULARITIES


class MsfSer(nn.Module):
    """MSF-SER (arXiv 2510.05749, "MSF-SER"). The structure is [text], the equations are [ours].

    Three semantics, each an optional text vector: local emphasis (LES), global (GS) and extended (ES). Gated fusion of
    the three, then FiLM and a mixture of experts with a router per dimension (FM-MOE)::

        h_a = W_a ASP(H);  s_k = LN(W_k e_k) or the learned "absent" vector
        g_k = σ(U_k [s_L; s_G; s_E]), 0 where k is absent;  s = Σ_k g_k ⊙ s_k
        h_d = (1 + γ_d) ⊙ LN(h_a) + β_d  with (γ_d, β_d) = F_d s
        z_d = h_d + Σ_i π_{d,i} E_i(h_d)  with π_d = softmax(R_d [h_d; s])
        ŷ_d = w_dᵀ Dropout(z_d) + b_d

    A missing granularity is normal: one set of weights scores sound alone, sound and transcript, or everything.

    Raises:
        ConfigError: No granularity is left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._granularities = granularity_indices(config)
        fusion, width, count = config.fusion, config.width, len(self._granularities)
        self.sound = PooledSound(config)
        self.semantics = SemanticsProjection(config.text_width, width, count)
        self.gates = GatedFusion(width, count, fusion.gate) if fusion.kind == "fm_moe" else None
        self.fusion: FilmMoe | ConcatMlp | CrossAttention
        if fusion.kind == "fm_moe":
            self.fusion = FilmMoe(width, fusion.moe)
        elif fusion.kind == "concat_mlp":
            self.fusion = ConcatMlp(width, count, width, config.dropout)
        else:
            self.fusion = CrossAttention(width, fusion.heads, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.weight_3D = nn.Parameter(torch.empty(len(DIMENSIONS), width))
        self.bias_3 = nn.Parameter(torch.full((len(DIMENSIONS),), LABEL_CENTER))
        nn.init.uniform_(self.weight_3D, -(width**-0.5), width**-0.5)
        self.classify = ClassHead(len(DIMENSIONS) * width, len(config.classes))

    def forward(self, batch: Batch) -> Output:
        """Score a batch, with explanations: gate share per granularity and expert weights per dimension."""
        audio_BD = self.sound(batch)
        text_BKE = batch.text_BKE[:, self._granularities]
        present_BK = batch.present_BK[:, self._granularities]
        semantics_BKD = self.semantics(text_BKE, present_BK)
        gates_BK = experts_B3E = router_B3E = None
        if isinstance(self.fusion, FilmMoe):
            assert self.gates is not None
            fused_BD, share_BK = self.gates(semantics_BKD, present_BK)
            gates_BK = self._spread(share_BK)
            hidden_B3D, experts_B3E, router_B3E = self.fusion(audio_BD, fused_BD)
        else:
            hidden_B3D = self.fusion(audio_BD, semantics_BKD).unsqueeze(1).expand(-1, len(DIMENSIONS), -1)
        hidden_B3D = self.dropout(hidden_B3D)
        prediction_B3 = (hidden_B3D * self.weight_3D).sum(-1) + self.bias_3
        return Output(prediction_B3, self.classify(hidden_B3D.flatten(1)), gates_BK, experts_B3E, router_B3E)

    def _spread(self, share_BK: Tensor) -> Tensor:
        """Shares over all three granularities, 0 for those that the model does not have."""
        gates_BK = share_BK.new_zeros(share_BK.shape[0], len(GRANULARITIES))
        gates_BK[:, self._granularities] = share_BK
        return gates_BK
