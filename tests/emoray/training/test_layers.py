"""What is done to an encoder's layers: neither recomputing nor compiling them changes what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_kit import launch_config, model_config, random_batch, train_config

from emoray.errors import ConfigError
from emoray.models.build import build
from emoray.training.data.loader import WorkerBatch
from emoray.training.layers import encoder_layers
from emoray.training.seeds import seed_torch
from emoray.training.step import Learner

#: Dropout is on, in the encoder too.
MODEL = model_config(dropout=0.2)


def trained(model=MODEL, size: int = 4, **changes: Any) -> tuple[Learner, list[dict[str, float]]]:
    """Two steps over nine clips, in micro-batches of a size."""
    seed_torch(0)
    learner = Learner(build(model), train_config(), launch_config(**changes), total_steps=5)
    steps = []
    for step in range(2):
        batch = random_batch(9, 12, seed=step)
        parts = tuple(batch.slice(at, min(at + size, 9)) for at in range(0, 9, size))
        steps.append(learner.step(WorkerBatch(epoch=0, step=step, clips=9, start=0, batches=parts)))
    return learner, steps


def prediction(learner: Learner) -> torch.Tensor:
    with torch.inference_mode():
        return learner.model.eval()(random_batch(5, 12, seed=9)).prediction_B3


@pytest.mark.parametrize("size", [4, 9])
def test_recomputed_layers_train_alike_with_the_same_dropout(size):
    (plain, steps), (spared, others) = trained(size=size), trained(size=size, gradient_checkpointing=True)
    assert others == steps
    assert torch.equal(prediction(spared), prediction(plain))


def test_recomputed_layers_keep_only_their_inputs():
    kept = {}
    for spare in (False, True):
        learner, _ = trained(gradient_checkpointing=spare)
        (layer,) = encoder_layers(learner.model)
        saved: list[int] = []
        hidden_BTD = torch.randn(2, 30, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda one, saved=saved: saved.append(one.numel()) or one, lambda one: one
        ):
            layer(hidden_BTD)
        kept[spare] = sum(saved)
    assert kept[True] <= 2 * 30 * 16 < kept[False] / 5


def test_cnn14_cannot_be_recomputed():
    cnn14 = model_config(name="cnn14", encoder={"kind": "cnn14"})
    with pytest.raises(ConfigError, match=r"launch\.gradient_checkpointing: .*batch normalisation.*micro_batch_size"):
        Learner(build(cnn14), train_config(), launch_config(gradient_checkpointing=True), total_steps=1)


@pytest.mark.parametrize("spare", [False, True])
def test_traced_layers_train_alike(spare):
    (plain, steps), (traced, others) = trained(), trained(compile="aot_eager", gradient_checkpointing=spare)
    for one, other in zip(steps, others, strict=True):
        assert other == pytest.approx(one, abs=1e-5)
    torch.testing.assert_close(prediction(traced), prediction(plain), atol=1e-5, rtol=0)
    assert traced.model.state_dict().keys() == plain.model.state_dict().keys()


def test_without_a_compiler_the_option_is_named():
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}),
        pytest.raises(ConfigError, match=r"launch\.compile: .*ompiler.*launch\.compile=null"),
    ):
        Learner(build(MODEL), train_config(), launch_config(compile="inductor"), total_steps=1)


def test_a_model_without_an_encoder_has_no_layers_to_change():
    text = model_config(name="text")
    (_, plain), (_, steps) = trained(text), trained(text, compile="inductor", gradient_checkpointing=True)
    assert steps == plain
