from __future__ import annotations

import pytest
import torch
from training_kit import TEXT_WIDTH, model_config, random_batch

from emoray.errors import ConfigError
from emoray.models.build import build
from emoray.models.config import MoeConfig
from emoray.models.fusion import FilmMoe, GatedFusion, SemanticsProjection


def moe(routing: str = "dense", router: str = "per_dimension", experts: int = 4) -> FilmMoe:
    torch.manual_seed(0)
    return FilmMoe(6, MoeConfig(experts=experts, inner=5, routing=routing, router=router))


def test_semantics_use_the_learned_vector_where_text_is_absent():
    semantics = SemanticsProjection(TEXT_WIDTH, 6, 3)
    present = torch.tensor([[True, False, True]])
    out = semantics(torch.randn(1, 3, TEXT_WIDTH), present)
    assert torch.equal(out[0, 1], semantics.absent_KD[1])
    torch.testing.assert_close(out[0, 0].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)  # layer-normed


@pytest.mark.parametrize("gate", ["vector", "softmax"])
def test_absent_granularities_have_closed_gates(gate):
    fusion = GatedFusion(6, 3, gate)
    vectors = torch.randn(4, 3, 6)
    present = torch.tensor([[True, True, True], [True, False, False], [False, True, True], [False, False, False]])
    fused, share = fusion(vectors, present)
    assert (share[~present] == 0).all()
    torch.testing.assert_close(share.sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert (fused[3] == 0).all()
    if gate == "softmax":  # the only one there gets all the weight
        torch.testing.assert_close(fused[1], vectors[1, 0])


def test_vector_gates_follow_the_formula():
    fusion = GatedFusion(2, 3, "vector")
    vectors, present = torch.randn(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    joined = vectors.flatten()
    expected = sum(
        torch.sigmoid(fusion.gate.weight[2 * k : 2 * k + 2] @ joined + fusion.gate.bias[2 * k : 2 * k + 2])
        * vectors[0, k]
        for k in range(3)
    )
    torch.testing.assert_close(fusion(vectors, present)[0][0], expected)


def test_film_moe_follows_the_formula():
    block = moe()
    audio, semantics = torch.randn(1, 6), torch.randn(1, 6)
    got, weights, _ = block(audio, semantics)
    film = block.film(semantics)[0].view(3, 12)
    for d in range(3):
        gamma, beta = film[d, :6], film[d, 6:]
        hidden = (1 + gamma) * block.norm(audio)[0] + beta
        router = torch.softmax(block.routers[d](torch.cat([hidden, semantics[0]])), 0)
        torch.testing.assert_close(weights[0, d], router)
        expected = hidden.clone()
        for i in range(4):
            inner = torch.nn.functional.gelu(hidden @ block.inner_EDI[i] + block.inner_bias_EI[i])
            expected = expected + router[i] * (inner @ block.outer_EID[i] + block.outer_bias_ED[i])
        torch.testing.assert_close(got[0, d], expected)


def test_top2_routing_keeps_the_two_largest_weights():
    block = moe("top2")
    _, used, router = block(torch.randn(8, 6), torch.randn(8, 6))
    assert ((used > 0).sum(-1) == 2).all()
    torch.testing.assert_close(used.sum(-1), torch.ones(8, 3))
    top = router.topk(2, dim=-1)
    torch.testing.assert_close(used.gather(-1, top.indices), top.values / top.values.sum(-1, keepdim=True))


def test_a_shared_router_is_one_layer():
    assert len(moe(router="shared").routers) == 1
    assert len(moe().routers) == 3


@pytest.mark.parametrize("left", [["gs", "es"], ["les", "es"], ["les", "gs"], ["gs"]])
def test_ablated_granularities_have_no_influence(left):
    model = build(model_config(granularities=left)).eval()
    batch = random_batch(6, 12)
    out = model(batch)
    for k, name in enumerate(["les", "gs", "es"]):
        changed = batch.text_BKE.clone()
        changed[:, k] = torch.randn(6, TEXT_WIDTH)
        batch_2 = type(batch)(**{**batch.__dict__, "text_BKE": changed, "present_BK": torch.ones(6, 3).bool()})
        batch_1 = type(batch)(**{**batch.__dict__, "present_BK": torch.ones(6, 3).bool()})
        same = torch.equal(model(batch_1).prediction_B3, model(batch_2).prediction_B3)
        assert same == (name not in left)
        if name not in left:
            assert (out.gates_BK[:, k] == 0).all()


@pytest.mark.parametrize("name", ["msf_ser", "concat"])
def test_no_granularity_left_is_a_configuration_error(name):
    with pytest.raises(ConfigError, match=r"model\.granularities: .*model\.name=acoustic"):
        build(model_config(name=name, granularities=[]))
