from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp
from training_kit import (
    NO_DROPOUT,
    gloo_worker,
    launch_config,
    model_config,
    pack_rows,
    planted_rows,
    random_batch,
    run_fit,
    train_config,
)

from emoray.errors import TrainingError
from emoray.models.batch import Batch
from emoray.models.build import build
from emoray.training.data.loader import WorkerBatch
from emoray.training.fit import Callbacks
from emoray.training.objectives import ccc_loss
from emoray.training.optimizer import build_optimizer, lr_factor
from emoray.training.seeds import seed_torch
from emoray.training.step import Learner

CLASSES = {"classes": ["low", "high"]}
ALL_TERMS = {"category": 0.5, "load_balance": 0.1}


def learner(config, **changes) -> Learner:
    seed_torch(0)
    return Learner(build(config), train_config(**changes), launch_config(), total_steps=10)


def share(batch: Batch, size: int, step: int = 0) -> WorkerBatch:
    parts = tuple(batch.slice(at, min(at + size, len(batch))) for at in range(0, len(batch), size))
    return WorkerBatch(epoch=0, step=step, clips=len(batch), start=0, batches=parts)


def assert_same_outputs(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Outputs, not weights: Adam lifts the rounding errors of a gradient that is zero (keys' biases) to full steps."""
    batch = random_batch(9, 12, seed=9)
    with torch.inference_mode():
        first, second = one.eval()(batch), other.eval()(batch)
    torch.testing.assert_close(second.prediction_B3, first.prediction_B3, atol=1e-5, rtol=0)
    torch.testing.assert_close(second.logits_BC, first.logits_BC, atol=1e-5, rtol=0)


def assert_same_weights(one: dict, other: dict, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=tolerance, rtol=0, msg=name)


def test_one_step_is_autograd_and_adamw():
    config = model_config(**NO_DROPOUT)
    batch = random_batch(9, 12)
    trained = learner(config, optimizer={"clip_norm": 1e9, "warmup_fraction": 0})
    metrics = trained.step(share(batch, 9))

    seed_torch(0)
    model = build(config).train()
    optimizer = build_optimizer(model, trained.config.optimizer)
    loss = ccc_loss(model(batch).prediction_B3, batch.target_B3)
    loss.backward()
    optimizer.step()
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["loss"] == pytest.approx(
        3 - sum(metrics[f"ccc_{d}"] for d in ("valence", "arousal", "dominance")), abs=1e-5
    )
    assert_same_weights(model.state_dict(), trained.model.state_dict(), 1e-6)


@pytest.mark.parametrize("routing", ["dense", "top2"])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_accumulation_changes_nothing(size, routing):
    config = model_config(fusion={"moe": {"routing": routing}}, **CLASSES, **NO_DROPOUT)
    batch = random_batch(11, 12)
    whole, parts = learner(config, objective=ALL_TERMS), learner(config, objective=ALL_TERMS)
    for step in range(3):
        first = whole.step(share(batch, 11, step))
        second = parts.step(share(batch, size, step))
        assert second == pytest.approx(first, abs=1e-5, rel=1e-5)
    assert_same_outputs(whole.model, parts.model)


def test_the_second_pass_repeats_the_dropout_of_the_first():
    """The gradient must be of the very predictions that the loss saw: here by hand, micro-batch by micro-batch."""
    config = model_config(dropout=0.5)
    batch = random_batch(8, 12)
    trained = learner(config, optimizer={"clip_norm": 1e9, "warmup_fraction": 0})
    trained.step(share(batch, 4))

    seed_torch(0)
    model = build(config).train()
    outputs = []
    for start in (0, 4):
        seed_torch(trained.config.seed, "dropout", 0, start)
        outputs.append(model(batch.slice(start, start + 4)).prediction_B3)
    ccc_loss(torch.cat(outputs), batch.target_B3).backward()
    for name, parameter in trained.model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, dict(model.named_parameters())[name].grad, atol=1e-6, rtol=0, msg=name
        )


def test_local_scope_is_the_mean_over_micro_batches():
    config = model_config(**NO_DROPOUT)
    batch = random_batch(8, 12)
    trained = learner(config, objective={"ccc_scope": "local"}, optimizer={"clip_norm": 1e9})
    trained.step(share(batch, 4))
    seed_torch(0)
    model = build(config).train()
    loss = (
        sum(ccc_loss(model(part).prediction_B3, part.target_B3) for part in (batch.slice(0, 4), batch.slice(4, 8))) / 2
    )
    loss.backward()
    for name, parameter in trained.model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, dict(model.named_parameters())[name].grad, atol=1e-6, rtol=0, msg=name
        )


#: Batches of odd size, accumulated on one worker only; crops, masks, dropped text; all terms of the loss.
ODD = {
    "epochs": 2,
    "micro_batch_size": 4,
    "plan": {"batch_size": 7, "buckets": 2},
    "objective": ALL_TERMS,
    "augment": {"crop_s": 0.3, "modality_dropout": 0.3, "time_masks": 1},
}
#: One clip per global batch: the second worker has none, in any step.
IDLE = {"epochs": 1, "plan": {"batch_size": 1, "buckets": 1}, "objective": {"category": 1.0}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple]:
    """Two trainings, each by one process and by two that share it; one of them stopped half-way, too, and gone on."""
    made = {}
    for name, clips, changes, routing in (("odd", 20, ODD, "top2"), ("idle", 6, IDLE, "dense")):
        model = model_config(fusion={"moe": {"routing": routing}}, **CLASSES, **NO_DROPOUT)
        folder = str(tmp_path_factory.mktemp(name))
        made[name] = (folder, model, train_config(**changes), pack_rows(folder, planted_rows(clips, seed=1), model))
    store = str(tmp_path_factory.mktemp("store") / "store")
    odd = made["odd"][:3]
    # The resumed one last: until all workers are in a later run, one of them may still be writing the checkpoint.
    todo = [(*odd, "stopped", None, 2), *(made[name][:3] for name in made), (*odd, "resumed", "stopped-2")]
    mp.spawn(gloo_worker, args=(2, store, todo), nprocs=2)
    return made


@pytest.mark.parametrize("name", ["odd", "idle"])
def test_two_workers_equal_one(runs, name):
    folder, model, train, (lake, set_hash) = runs[name]
    first, second = (torch.load(f"{folder}/end.{rank}", weights_only=True) for rank in (0, 1))
    steps: list[dict[str, float]] = []
    alone, result = run_fit(
        lake, set_hash, model, train, Callbacks(on_step=lambda _step, metrics: steps.append(metrics))
    )
    assert len(steps) == len(first["steps"]) >= 4
    for one, two, same in zip(steps, first["steps"], second["steps"], strict=True):
        assert two == pytest.approx(one, abs=1e-5, rel=1e-6)
        assert same == two
    for one, two in zip(result.history, first["history"], strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    shared = build(model)
    shared.load_state_dict(first["weights"])
    assert_same_outputs(alone.model, shared)
    for parameter, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][parameter]), parameter


def test_workers_stop_together_when_one_of_them_is_asked_to(runs):
    ends = {
        name: [torch.load(f"{runs['odd'][0]}/{name}.{rank}", weights_only=True) for rank in (0, 1)]
        for name in ("end", "stopped", "resumed")
    }
    assert [end["error"] for end in ends["stopped"]] == [ends["stopped"][0]["error"]] * 2
    assert "stopped after 2 of" in ends["stopped"][0]["error"]
    for whole, resumed in zip(ends["end"], ends["resumed"], strict=True):
        assert resumed["steps"] == whole["steps"][2:]
        assert all(torch.equal(weight, resumed["weights"][name]) for name, weight in whole["weights"].items())


def test_a_clip_that_breaks_the_loss_is_named_and_no_weight_changes():
    batch = random_batch(6, 12)
    features = batch.features_BTF.clone()
    features[4, 0, 0] = math.nan
    batch = replace(batch, features_BTF=features)
    for size in (6, 2):
        trained = learner(model_config())
        before = {name: weight.clone() for name, weight in trained.model.state_dict().items()}
        with pytest.raises(TrainingError, match=r"step 3: .*clip-4\.") as error:
            trained.step(share(batch, size, step=3))
        assert error.value.kind == "non_finite_loss"
        assert_same_weights(before, trained.model.state_dict(), 0)


def test_unlabelled_clips_change_nothing_but_the_explanations():
    config = model_config(**CLASSES, **NO_DROPOUT)
    batch, extra = random_batch(6, 12), random_batch(3, 12, seed=5).unlabelled()
    with_extra = WorkerBatch(0, 0, 9, 0, (batch, extra))
    one, other = learner(config, objective=ALL_TERMS), learner(config, objective=ALL_TERMS)
    assert other.step(with_extra) == pytest.approx(one.step(share(batch, 6)), abs=1e-5)
    assert_same_outputs(one.model, other.model)


def test_bf16_trains_close_to_fp32():
    batch = random_batch(16, 12)
    full, half = learner(model_config(**NO_DROPOUT)), learner(model_config(**NO_DROPOUT), precision="bf16")
    for step in range(5):
        assert half.step(share(batch, 16, step))["loss"] == pytest.approx(
            full.step(share(batch, 16, step))["loss"], abs=0.1
        )
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())


def test_vectors_are_not_decayed():
    model = build(model_config())
    for group in build_optimizer(model, train_config().optimizer).param_groups:
        matrices = {parameter.dim() > 1 for parameter in group["params"]}
        assert matrices == ({True} if group["weight_decay"] else {False})


def test_the_schedule_warms_up_and_falls_to_zero():
    config = train_config(optimizer={"warmup_fraction": 0.1}).optimizer
    factors = [lr_factor(step, 100, config) for step in range(101)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    flat = config.model_copy(update={"schedule": "constant"})
    assert lr_factor(99, 100, flat) == 1
