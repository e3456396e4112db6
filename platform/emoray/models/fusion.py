"""Fusion of text and sound: gates over semantics, FiLM, mixture of experts, and simpler ones to compare them with.

Shapes: B batch, K granularities, E text width or experts, D width, I inner width, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emoray.errors import ConfigError
from emoray.models.batch import Batch
from emoray.models.config import ModelConfig, MoeConfig
from emoray.schema import DIMENSIONS, GRANULARITIES


def granularity_indices(config: ModelConfig) -> list[int]:
    """Indices of the configured granularities in `GRANULARITIES`; a ConfigError if there is none."""
    if not config.granularities:
        remedy = "Use model.name=cnn14 or model.name=acoustic"
        raise ConfigError(f"{config.name} without any text", where="model.granularities", remedy=remedy)
    return [GRANULARITIES.index(name) for name in config.granularities]


class TextVector(nn.Module):
    """e: the text vectors of the configured granularities concatenated, a learned vector for an absent one [ours].

    The learned ones start at zero. With `granularities: [gs]` it is the transcript's vector alone.

    Attributes:
        width: Width of e.

    Raises:
        ConfigError: No granularity is left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._granularities = granularity_indices(config)
        self.width = len(config.granularities) * config.text_width
        self.absent_KE = nn.Parameter(torch.zeros(len(config.granularities), config.text_width))

    def present(self, batch: Batch) -> Tensor:
        """Which clips (B,) have any of the vectors."""
        return batch.present_BK[:, self._granularities].any(1)

    def forward(self, batch: Batch) -> Tensor:
        """Vectors (B, width) of a batch."""
        present_BK1 = batch.present_BK[:, self._granularities].unsqueeze(-1)
        return torch.where(present_BK1, batch.text_BKE[:, self._granularities], self.absent_KE).flatten(1)


class SemanticsProjection(nn.Module):
    """Text vectors of width E projected to a common width D: s_k = LN(W_k e_k), or a learned "absent" vector."""

    def __init__(self, text_width: int, width: int, granularities: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(text_width, width) for _ in range(granularities))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(granularities))
        self.absent_KD = nn.Parameter(torch.randn(granularities, width) * width**-0.5)

    def forward(self, text_BKE: Tensor, present_BK: Tensor) -> Tensor:
        """Project to (B, K, D)."""
        # Absent vectors count as zeros, whatever the caller put there.
        text_BKE = text_BKE.masked_fill(~present_BK.unsqueeze(-1), 0)
        vectors = [
            norm(project(text_BKE[:, k])) for k, (project, norm) in enumerate(zip(self.project, self.norm, strict=True))
        ]
        return torch.where(present_BK.unsqueeze(-1), torch.stack(vectors, dim=1), self.absent_KD)


class GatedFusion(nn.Module):
    """Intra-modal gated fusion of K text vectors: s = Σ_k g_k ⊙ s_k.

    With the gate `vector`, g_k = σ(U_k [s_1; …; s_K]) per channel; with `softmax`, one weight per granularity, summing
    to 1.
    """

    def __init__(self, width: int, granularities: int, gate: str) -> None:
        super().__init__()
        self._softmax = gate == "softmax"
        self._width = width
        self.gate = nn.Linear(granularities * width, granularities * (1 if self._softmax else width))

    def forward(self, semantics_BKD: Tensor, present_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the vectors that are present.

        Returns:
            s (B, D), zero if nothing is present; and each granularity's share (B, K) of the mass Σ_k |g_k ⊙ s_k|.
        """
        present_BK1 = present_BK.unsqueeze(-1)
        logits_BKG = self.gate(semantics_BKD.flatten(1)).unflatten(1, (semantics_BKD.shape[1], -1))
        if self._softmax:
            gates_BKG = logits_BKG.masked_fill(~present_BK1, torch.finfo(logits_BKG.dtype).min).softmax(dim=1)
        else:
            gates_BKG = logits_BKG.sigmoid()
        parts_BKD = gates_BKG.masked_fill(~present_BK1, 0) * semantics_BKD
        mass_BK = parts_BKD.abs().sum(-1)
        return parts_BKD.sum(1), mass_BK / mass_BK.sum(1, keepdim=True).clamp_min(torch.finfo(mass_BK.dtype).tiny)


class FilmMoe(nn.Module):
    """FM-MOE: per dimension d FiLM by the semantics and a router; the experts are shared by all dimensions.

    (γ_d, β_d) = F_d s;  h_d = (1 + γ_d) ⊙ LN(h_a) + β_d;  π_d = softmax(R_d [h_d; s]); z_d = h_d + Σ_i π_{d,i}
    E_i(h_d),  E_i(h) = W2_i GELU(W1_i h).
    """

    #: Experts that a clip is sent to with `routing: top2`.
    TOP = 2

    def __init__(self, width: int, config: MoeConfig) -> None:
        super().__init__()
        self._sparse = config.routing == "top2"
        self._shared = config.router == "shared"
        self.norm = nn.LayerNorm(width)
        self.film = nn.Linear(width, len(DIMENSIONS) * 2 * width)
        self.routers = nn.ModuleList(
            nn.Linear(2 * width, config.experts) for _ in range(1 if self._shared else len(DIMENSIONS))
        )
        self.inner_EDI = nn.Parameter(torch.empty(config.experts, width, config.inner))
        self.inner_bias_EI = nn.Parameter(torch.zeros(config.experts, config.inner))
        self.outer_EID = nn.Parameter(torch.empty(config.experts, config.inner, width))
        self.outer_bias_ED = nn.Parameter(torch.zeros(config.experts, width))
        for weight in (self.inner_EDI, self.outer_EID):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, audio_BD: Tensor, semantics_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse sound and semantics.

        Returns:
            z (B, 3, D), the expert weights used (B, 3, E) and the routers' full softmax (B, 3, E).
        """
        gamma_B3D, beta_B3D = self.film(semantics_BD).unflatten(1, (len(DIMENSIONS), -1)).chunk(2, dim=-1)
        hidden_B3D = (1 + gamma_B3D) * self.norm(audio_BD).unsqueeze(1) + beta_B3D
        routed_B3D2 = torch.cat([hidden_B3D, semantics_BD.unsqueeze(1).expand_as(hidden_B3D)], dim=-1)
        logits = [self.routers[0 if self._shared else d](routed_B3D2[:, d]) for d in range(len(DIMENSIONS))]
        router_B3E = torch.stack(logits, dim=1).softmax(-1)
        weight_B3E = _keep_top(router_B3E, self.TOP) if self._sparse else router_B3E
        # All experts run even for top-2: they are small, and the product is one dense kernel.
        inner_B3EI = torch.einsum("bnd,edi->bnei", hidden_B3D, self.inner_EDI) + self.inner_bias_EI
        outer_B3ED = torch.einsum("bnei,eid->bned", nn.functional.gelu(inner_B3EI), self.outer_EID) + self.outer_bias_ED
        return hidden_B3D + (weight_B3E.unsqueeze(-1) * outer_B3ED).sum(2), weight_B3E, router_B3E


def _keep_top(router_B3E: Tensor, count: int) -> Tensor:
    """The `count` largest weights, rescaled to sum to 1; the others 0."""
    count = min(count, router_B3E.shape[-1])
    top, index = router_B3E.topk(count, dim=-1)
    kept_B3E = torch.zeros_like(router_B3E).scatter(-1, index, top)
    return kept_B3E / kept_B3E.sum(-1, keepdim=True)


class ConcatMlp(nn.Module):
    """Concatenation of sound and text vectors, all of width D, and one hidden layer: what FM-MOE is compared with."""

    def __init__(self, width: int, granularities: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear((1 + granularities) * width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, audio_BD: Tensor, semantics_BKD: Tensor) -> Tensor:
        """Fuse to (B, hidden)."""
        return self.layers(torch.cat([audio_BD, semantics_BKD.flatten(1)], dim=-1))


class CrossAttention(nn.Module):
    """Sound attends over the text vectors: z = LN(h_a + MHA(h_a, s, s)). Absent ones are their learned vector."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, audio_BD: Tensor, semantics_BKD: Tensor) -> Tensor:
        """Fuse to (B, D)."""
        mixed_B1D, _ = self.attention(audio_BD.unsqueeze(1), semantics_BKD, semantics_BKD, need_weights=False)
        return self.norm(audio_BD + mixed_B1D.squeeze(1))
