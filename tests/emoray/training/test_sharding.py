"""Full sharding: whatever two workers with a share each do, they do as two with everything, and as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from benchmarks.tiny.checkpoints import make
from training_kit import (
    NO_DROPOUT,
    SharedRun,
    gloo_worker,
    held,
    launch_config,
    model_config,
    pack_rows,
    planted_rows,
    run_fit,
    train_config,
)

from emoray.config import merge
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.build import build
from emoray.training.checkpoint import Checkpoint, trained_weights
from emoray.training.fit import Callbacks

CLASSES = {"classes": ["low", "high"]}
#: Five clips a step, two a micro-batch: one worker has two micro-batches, the other one. Likewise on dev.
UNEVEN: dict[str, Any] = {
    "epochs": 2,
    "micro_batch_size": 2,
    "plan": {"batch_size": 5, "buckets": 1},
    "augment": {"crop_s": 0.3, "modality_dropout": 0.3},
}
SHORT = {**UNEVEN, "epochs": 1}
#: One clip a step, and one on dev: the second worker has none, anywhere.
IDLE = {"epochs": 1, "plan": {"batch_size": 1, "buckets": 1}, "objective": {"ccc": 0.0, "category": 1.0}}
#: Name → (which clips, model, training). Those in `ALONE` are also trained by one worker.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "msf_ser": (
        "logmel",
        {**CLASSES, **NO_DROPOUT, "fusion": {"moe": {"routing": "top2"}}},
        {**UNEVEN, "objective": {"category": 0.5, "load_balance": 0.1}, "optimizer": {"clip_norm": 0.5}},
    ),
    "idle": ("few", {**CLASSES, **NO_DROPOUT}, IDLE),
    "ssl": ("ssl", {"dropout": 0.0}, UNEVEN),
    "ssl-frozen": ("ssl", {"name": "acoustic", "encoder": {"ssl": {"tuning": "frozen", "layers": "last"}}}, SHORT),
    # With seed 0 a step of five clips has a gradient of norm 64, whose last digits are rounding.
    "cnn14": ("cnn14", {"name": "multistage"}, {**SHORT, "seed": 1}),
    "late_fusion": ("logmel", {"name": "late_fusion"}, {**SHORT, "optimizer": {"kind": "sgd", "clip_norm": 0.05}}),
    "local": ("logmel", {"name": "emosphere"}, {**SHORT, "objective": {"ccc_scope": "local"}}),
    "bf16": ("logmel", {}, {**SHORT, "precision": "bf16"}),
    "diverging": ("logmel", {}, {**UNEVEN, "optimizer": {"lr": 1e30}}),
}
ALONE = ("msf_ser", "idle", "ssl")
LAUNCH: dict[str, Any] = {"eval_batch_size": 2, "checkpoint_steps": 1}
FULL = {**LAUNCH, "sharding": "full"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple]:
    """Each case trained by two workers with replicas (`none`) and with shares (`full`), then resumed the other way."""
    checkpoint = make("wavlm", tmp_path_factory.mktemp("wavlm"))
    described = Path(checkpoint, "config.json")
    still = {f"{part}_dropout": 0.0 for part in ("attention", "activation", "hidden", "feat_proj")}
    described.write_text(json.dumps(json.loads(described.read_text()) | still))
    encoders = {
        "few": {},
        "logmel": {},
        "cnn14": {"kind": "cnn14"},
        "ssl": {"kind": "ssl", "ssl": {"checkpoint": checkpoint}},
    }
    folders, made, todo = {}, {}, []
    for name, (clips, model, train) in CASES.items():
        config = model_config(**{**model, "encoder": merge(encoders[clips], model.get("encoder", {}))})
        if clips not in folders:
            folders[clips] = str(tmp_path_factory.mktemp(clips))
            rows = planted_rows(6 if clips == "few" else 20, seed=1)
            if clips == "few":
                rows[4]["split"] = "train"
            pack_rows(folders[clips], rows, config)
        made[name] = (folders[clips], config, train)
        # What saves memory must not change a number either.
        spared = {**FULL, "gradient_checkpointing": name == "ssl"}
        for way, launch in (("none", LAUNCH), ("full", spared)):
            run = SharedRun(folders[clips], config, train_config(**train), f"{name}-{way}")
            todo.append(run._replace(launch=launch_config(**launch)))
    for began, ends in (("full", "none"), ("none", "full")):
        folder, config, train = made["msf_ser"]
        run = SharedRun(folder, config, train_config(**train), f"resumed-{ends}", f"msf_ser-{began}-2")
        todo.append(run._replace(launch=launch_config(**{**LAUNCH, "sharding": ends})))
    mp.spawn(gloo_worker, args=(2, str(tmp_path_factory.mktemp("store") / "store"), todo), nprocs=2)
    return made


def ends(runs, case: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (torch.load(f"{runs[case][0]}/{name}.{rank}", weights_only=True) for rank in (0, 1))
    return first, second


def alone(runs, case: str, resume: str | None = None, **changes: Any) -> tuple[Any, Any, list[dict[str, float]]]:
    folder, model, train = runs[case]
    lake, steps = Lake(LakeConfig(root=folder, storage_options={})), []
    callbacks = Callbacks(on_step=lambda _step, metrics: steps.append(metrics))
    start = Checkpoint.latest(lake, resume) if resume else None
    learner, result = run_fit(
        lake, "set", model, train_config(**train), callbacks, start, launch_config(**{**LAUNCH, **changes})
    )
    return learner, result, steps


def assert_alike(steps, others, history, other_history) -> None:
    assert len(steps) == len(others) >= 3
    for one, other in zip([*steps, *history], [*others, *other_history], strict=True):
        near = {
            name: pytest.approx(value, abs=1e-5, rel=1e-4 if name == "grad_norm" else 0) for name, value in one.items()
        }
        assert other == near


def assert_same_weights(weights: dict, others: dict) -> None:
    """To 1e-5, but for keys' biases: their gradient is zero, and Adam lifts its rounding errors to steps."""
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        tolerance = 1e-4 if name.endswith("in_proj_bias") else 1e-5
        torch.testing.assert_close(others[name], weight, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("case", [name for name in CASES if name not in ("bf16", "diverging")])
def test_two_with_shares_equal_two_replicas(runs, case):
    (replica, _), (first, second) = ends(runs, case, f"{case}-none"), ends(runs, case, f"{case}-full")
    assert first["steps"] == second["steps"]
    assert first["history"] == second["history"]
    assert_alike(replica["steps"], first["steps"], replica["history"], first["history"])
    assert_same_weights(replica["weights"], first["weights"])
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name


@pytest.mark.parametrize("case", ALONE)
def test_two_with_shares_equal_one(runs, case):
    first, _ = ends(runs, case, f"{case}-full")
    learner, result, steps = alone(runs, case, **FULL)  # alone a worker has all of it, and says nothing
    assert_alike(steps, first["steps"], result.history, first["history"])
    assert_same_weights(
        trained_weights(learner.model), {n: first["weights"][n] for n in trained_weights(learner.model)}
    )
    assert held(learner.model.parameters()) == sum(weight.numel() for weight in learner.model.parameters())


@pytest.mark.parametrize("case", ["msf_ser", "ssl", "cnn14"])
def test_each_worker_holds_its_share_alone(runs, case):
    model = build(runs[case][1])
    total = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    replica, shares = ends(runs, case, f"{case}-none")[0], ends(runs, case, f"{case}-full")
    assert (replica["held"], replica["held_state"]) == (total, 2 * trained)  # Adam keeps two numbers of each weight
    assert sum(share["held"] for share in shares) == total
    assert sum(share["held_state"] for share in shares) == 2 * trained
    assert max(share["held"] for share in shares) < 0.6 * total
    assert max(share["held_state"] for share in shares) < 0.6 * 2 * trained


def test_a_run_goes_on_with_other_workers_and_the_other_way(runs):
    unbroken, _ = ends(runs, "msf_ser", "msf_ser-full")
    for ending in ("none", "full"):
        resumed, _ = ends(runs, "msf_ser", f"resumed-{ending}")
        assert_alike(unbroken["steps"][2:], resumed["steps"], unbroken["history"], resumed["history"])
        assert_same_weights(unbroken["weights"], resumed["weights"])
    learner, result, steps = alone(runs, "msf_ser", "msf_ser-full-2")
    assert_alike(unbroken["steps"][2:], steps, unbroken["history"], result.history)
    assert_same_weights(unbroken["weights"], trained_weights(learner.model))


def test_checkpoints_are_as_with_replicas(runs):
    lake = Lake(LakeConfig(root=runs["ssl-frozen"][0], storage_options={}))
    one, other = (Checkpoint.latest(lake, f"ssl-frozen-{kind}-3") for kind in ("none", "full"))
    assert {name: weight.shape for name, weight in one.weights.items()} == {
        name: weight.shape for name, weight in other.weights.items()
    }
    assert not any("layers.0" in name for name in other.weights)  # frozen
    assert one.optimizer["param_groups"] == other.optimizer["param_groups"]
    assert one.optimizer["state"].keys() == other.optimizer["state"].keys()
    for number, slots in one.optimizer["state"].items():
        for name, value in slots.items():
            torch.testing.assert_close(other.optimizer["state"][number][name], value, atol=1e-5, rtol=0)


def test_bf16_computes_as_replicas_do(runs):
    (replica, _), (sharded, _) = ends(runs, "bf16", "bf16-none"), ends(runs, "bf16", "bf16-full")
    assert sharded["steps"][0] == pytest.approx(replica["steps"][0], rel=1e-3)
    for one, other in zip(replica["steps"], sharded["steps"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=0.1)
    assert all(weight.dtype == torch.float32 for weight in sharded["weights"].values())


def test_a_loss_that_is_not_finite_names_its_clips_on_every_worker(runs):
    (replica, _), (first, second) = ends(runs, "diverging", "diverging-none"), ends(runs, "diverging", "diverging-full")
    assert "not finite for u0" in first["error"]
    assert first["error"] == second["error"] == replica["error"]
