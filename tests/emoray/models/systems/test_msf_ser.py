"""MSF-SER's fusions and the concat baseline against their formulas in numpy: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import erf, expit, softmax
from training_kit import NO_DROPOUT, TEXT_WIDTH, model_config

from emoray.config import merge
from emoray.models.batch import Batch
from emoray.models.build import build

WIDTH = 16
#: LES and ES are there, GS is not.
PRESENT = [True, False, True]
Weights = dict[str, np.ndarray]


def built(name: str, **changes: object) -> torch.nn.Module:
    """A model in double precision whose sound is a fixed vector: the fusion alone is looked at."""
    torch.manual_seed(2)
    return build(model_config(**merge(NO_DROPOUT, {"name": name, **changes}))).double().eval()


def one_clip() -> Batch:
    torch.manual_seed(7)
    return Batch(
        features_BTF=torch.randn(1, 20, 12, dtype=torch.float64),
        lengths_B=torch.tensor([20]),
        text_BKE=torch.randn(1, 3, TEXT_WIDTH, dtype=torch.float64),
        present_BK=torch.tensor([PRESENT]),
        target_B3=torch.rand(1, 3),
        label_B=torch.tensor([0]),
        utterance_ids=("clip",),
    )


def linear(vector: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]


def layer_norm(vector: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    normal = (vector - vector.mean()) / np.sqrt(vector.var() + 1e-5)
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(vector: np.ndarray) -> np.ndarray:
    return vector * (1 + erf(vector / np.sqrt(2))) / 2


def semantics(text_KE: np.ndarray, weights: Weights) -> np.ndarray:
    """s_k = LN(W_k e_k), or the learned vector."""
    return np.stack(
        [
            layer_norm(linear(text_KE[k], weights, f"semantics.project.{k}"), weights, f"semantics.norm.{k}")
            if there
            else weights["semantics.absent_KD"][k]
            for k, there in enumerate(PRESENT)
        ]
    )


def fm_moe(audio_D: np.ndarray, parts_KD: np.ndarray, weights: Weights, gate: str) -> np.ndarray:
    """Gates, FiLM, router and experts; ŷ (3,)."""
    logits = linear(parts_KD.flatten(), weights, "gates.gate").reshape(3, -1)
    there = np.array(PRESENT)[:, None]
    gates_KD = expit(logits) * there if gate == "vector" else softmax(np.where(there, logits, -np.inf), axis=0)
    fused_D = (gates_KD * parts_KD).sum(0)
    film = linear(fused_D, weights, "fusion.film").reshape(3, 2, WIDTH)
    prediction = []
    for d in range(3):
        hidden = (1 + film[d, 0]) * layer_norm(audio_D, weights, "fusion.norm") + film[d, 1]
        router = softmax(linear(np.concatenate([hidden, fused_D]), weights, f"fusion.routers.{d}"))
        mixed = hidden.copy()
        for expert, share in enumerate(router):
            inner = gelu(hidden @ weights["fusion.inner_EDI"][expert] + weights["fusion.inner_bias_EI"][expert])
            mixed += share * (inner @ weights["fusion.outer_EID"][expert] + weights["fusion.outer_bias_ED"][expert])
        prediction.append(weights["weight_3D"][d] @ mixed + weights["bias_3"][d])
    return np.array(prediction)


def concat_mlp(audio_D: np.ndarray, parts_KD: np.ndarray, weights: Weights) -> np.ndarray:
    """Hidden vector of the concatenation."""
    joined = np.concatenate([audio_D, parts_KD.flatten()])
    hidden = layer_norm(linear(joined, weights, "fusion.layers.0"), weights, "fusion.layers.1")
    return np.maximum(hidden, 0)


def cross_attention(audio_D: np.ndarray, parts_KD: np.ndarray, weights: Weights) -> np.ndarray:
    """z = LN(h_a + MHA(h_a, s, s)) with two heads."""
    projections = np.split(weights["fusion.attention.in_proj_weight"], 3)
    biases = np.split(weights["fusion.attention.in_proj_bias"], 3)
    query = projections[0] @ audio_D + biases[0]
    key, value = (parts_KD @ projections[i].T + biases[i] for i in (1, 2))
    mixed = [
        softmax(key[:, head] @ query[head] / np.sqrt(len(head))) @ value[:, head]
        for head in np.split(np.arange(WIDTH), 2)
    ]
    attended = linear(np.concatenate(mixed), weights, "fusion.attention.out_proj")
    return layer_norm(audio_D + attended, weights, "fusion.norm")


def formula(case: str) -> Callable[[np.ndarray, np.ndarray, Weights], np.ndarray]:
    """ŷ (3,) of sound, text vectors and weights."""

    def predict(audio_D: np.ndarray, text_KE: np.ndarray, weights: Weights) -> np.ndarray:
        parts_KD = semantics(text_KE, weights)
        if case in ("vector", "softmax"):
            return fm_moe(audio_D, parts_KD, weights, case)
        if case == "concat":
            return linear(concat_mlp(audio_D, parts_KD, weights), weights, "output")
        hidden = (concat_mlp if case == "concat_mlp" else cross_attention)(audio_D, parts_KD, weights)
        return weights["weight_3D"] @ hidden + weights["bias_3"]

    return predict


CASES = {
    "vector": ("msf_ser", {"fusion": {"kind": "fm_moe", "gate": "vector"}}),
    "softmax": ("msf_ser", {"fusion": {"kind": "fm_moe", "gate": "softmax"}}),
    "concat_mlp": ("msf_ser", {"fusion": {"kind": "concat_mlp"}}),
    "cross_attention": ("msf_ser", {"fusion": {"kind": "cross_attention"}}),
    "concat": ("concat", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fusion_and_its_gradient_follow_the_formulas(case):
    name, changes = CASES[case]
    model, batch, predict = built(name, **changes), one_clip(), formula(case)
    target = np.array([0.2, 0.9, 0.6])
    prediction = model(batch).prediction_B3[0]
    (prediction - torch.from_numpy(target)).square().sum().backward()
    audio_D = model.sound(batch)[0].detach().numpy()
    text_KE = batch.text_BKE[0].numpy()
    weights = {key: value.detach().numpy().copy() for key, value in model.state_dict().items()}
    np.testing.assert_allclose(prediction.detach(), predict(audio_D, text_KE, weights), atol=1e-10)

    random, checked = np.random.default_rng(0), 0
    for key, parameter in model.named_parameters():
        if key.startswith("sound.") or parameter.grad is None:
            continue
        place = tuple(int(random.integers(size)) for size in parameter.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = weights[key].copy()
            moved[place] += step
            loss = ((predict(audio_D, text_KE, {**weights, key: moved}) - target) ** 2).sum()
            ends.append(loss)
        expected = (ends[0] - ends[1]) / 2e-6
        assert parameter.grad[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-8), key
        checked += abs(expected) > 1e-8
    assert checked >= 8
