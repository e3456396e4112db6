"""Training on whole dialogues: the plan, its shares, the perspective loss, and context that helps where it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from error_kit import of_kind
from hypothesis import given, settings
from hypothesis import strategies as st
from training_kit import (
    AUDIO,
    NO_DROPOUT,
    TEXT_WIDTH,
    SharedRun,
    gloo_worker,
    launch_config,
    model_config,
    pack_rows,
    planted_rows,
    run_fit,
    train_config,
)

from emoray.config import merge
from emoray.errors import TrainingError
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.build import frontend
from emoray.schema import utterances_table
from emoray.training.build import build_learner, plan_run
from emoray.training.checkpoint import Checkpoint, plan_fingerprint
from emoray.training.config import PlanConfig
from emoray.training.data.batch_plan import DIALOGUE_PLAN, make_plan, plan_units
from emoray.training.data.loader import LocalLoader, make_worker_batch
from emoray.training.data.pack import training_rows, training_set_hash
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import Callbacks, DevEvaluation, fit
from emoray.training.global_batch import GlobalBatch
from emoray.training.objectives import Objective
from emoray.training.predict import predict, summarise

CLASSES = ["low", "high"]
#: Cross-entropy of the three perspectives alone, as published.
PUBLISHED = {"ccc": 0.0, "category": 1.0, "class_weights": False}


def config_of(**changes):
    return model_config(**merge(NO_DROPOUT, {"name": "perspective", "classes": CLASSES, **changes}))


def spoken_rows(dialogues: int, turns: int, seed: int) -> list[dict[str, Any]]:
    """Dialogues in which a turn's class is what the turn before said (the first one's: what it says itself).

    What is said, high or low, is in the sound and in GS. Ids give no order away, and rows come in none.
    """
    random = np.random.default_rng(seed)
    way = np.random.default_rng(99).normal(size=TEXT_WIDTH).astype(np.float32)
    rows = []
    names = iter(random.permutation(dialogues * turns))
    for dialogue in range(dialogues):
        said = random.integers(0, 2, turns)
        for turn in range(turns):
            samples = random.normal(size=int(random.uniform(2400, 4000))) * 0.02 * np.exp(1.5 * (2 * said[turn] - 1))
            rows.append(
                {
                    "utterance_id": f"u{next(names):04d}",
                    "split": "train" if dialogue % 3 else "dev",
                    "speaker_id": f"s{dialogue % 5}-{turn % 2}",
                    "emotion": CLASSES[said[max(turn - 1, 0)]],
                    "gs": ((2 * said[turn] - 1) * way + random.normal(scale=0.1, size=TEXT_WIDTH)).astype(np.float32),
                    "waveform": samples.astype(np.float32),
                    "dialogue_id": f"d{dialogue}",
                    "turn": 2 * turn,
                }
            )
    return [rows[place] for place in random.permutation(len(rows))]


# --- the plan and its shares


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    most=st.integers(1, 6),
    buckets=st.integers(1, 4),
    world=st.integers(1, 4),
)
def test_dialogues_stay_whole_and_come_once_per_epoch(sizes, most, buckets, world):
    numbers = np.repeat(np.arange(len(sizes)), sizes)[np.random.default_rng(0).permutation(sum(sizes))]
    ids = [f"u{place:03d}" for place in range(len(numbers))]
    options = PlanConfig(batch_size=most, batch_seconds=1e9, buckets=buckets)
    plan = make_plan(ids, [1.0] * len(ids), options, epochs=2, seed=1, dialogues=numbers)
    assert plan.schema == DIALOGUE_PLAN
    names = np.array(ids)
    whole = sorted(names[numbers == number].tolist() for number in range(len(sizes)))
    for epoch in (0, 1):
        rows = [row for row in plan.to_pylist() if row["epoch"] == epoch]
        assert sorted(unit for row in rows for unit in plan_units(row)) == whole
        for row in rows:
            assert len(row["dialogue_clips"]) <= most
            assert row["seconds"] == len(row["utterance_ids"]) == sum(row["dialogue_clips"])
    order = np.random.default_rng(2).permutation(len(ids))
    turned = make_plan(
        [ids[i] for i in order], [1.0] * len(ids), options, epochs=2, seed=1, dialogues=1000 - numbers[order]
    )
    assert turned.equals(plan)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    rows = spoken_rows(18, 5, seed=1)
    return pack_rows(str(tmp_path_factory.mktemp("packed")), rows, config_of()), rows


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_and_micro_batches_part_no_dialogue(packed, world):
    (lake, set_hash), rows = packed
    training_set = TrainingSet.open(lake, set_hash, classes=CLASSES)
    train = train_config(epochs=1, micro_batch_size=12, plan={"batch_size": 5, "buckets": 1})
    plan = plan_run(training_set, training_set.ids("train"), config_of(), train)
    dialogue = {row["utterance_id"]: row["dialogue_id"] for row in rows}
    turn = {row["utterance_id"]: row["turn"] for row in rows}
    for row in plan.to_pylist():
        shares = [make_worker_batch(training_set, row, train, rank, world) for rank in range(world)]
        batches = [batch for share in shares for batch in share.batches]
        assert [name for batch in batches for name in batch.utterance_ids] == row["utterance_ids"]
        ends = np.cumsum([sum(map(len, share.batches)) for share in shares]).tolist()
        assert [share.start for share in shares if share.batches] == [
            start for share, start in zip(shares, [0, *ends], strict=False) if share.batches
        ]
        seen = [{dialogue[name] for name in batch.utterance_ids} for batch in batches]
        assert sum(map(len, seen)) == len(set().union(*seen)) == len(row["dialogue_clips"])
        for batch in batches:
            assert len(batch) in (5, 10)  # two dialogues of five turns fit into 12 clips
            own = list(zip(batch.dialogue_B.tolist(), batch.turn_B.tolist(), batch.utterance_ids, strict=True))
            for number in set(batch.dialogue_B.tolist()):
                order = [name for found, _, name in sorted(own) if found == number]
                assert [turn[name] for name in order] == [0, 2, 4, 6, 8]


def test_other_models_are_dealt_single_clips_as_ever(packed):
    (lake, set_hash), _ = packed
    training_set = TrainingSet.open(lake, set_hash, classes=CLASSES)
    ids, train = training_set.ids("train"), train_config(epochs=1)
    plan = plan_run(training_set, ids, model_config(name="concat"), train)
    assert plan.equals(make_plan(ids, training_set.durations_s(ids), train.plan, epochs=1, seed=0, crop_s=12.0))
    assert "dialogue_clips" not in plan.column_names
    learner = build_learner(training_set, ids, config_of(), train, launch_config(), total_steps=plan.num_rows)
    with pytest.raises(TrainingError, check=of_kind("mismatched_plan")):
        fit(learner, plan, LocalLoader(training_set, train), DevEvaluation(training_set, training_set.ids("dev")))
    alone = make_plan(ids, [1.0] * len(ids), train.plan, epochs=1, seed=0, dialogues=range(len(ids)))
    apart = make_plan(ids, [1.0] * len(ids), train.plan, epochs=1, seed=0)
    assert alone["utterance_ids"] == apart["utterance_ids"]
    assert plan_fingerprint(alone) != plan_fingerprint(apart)  # stored under it: neither may pass for the other


def test_dialogues_make_another_training_set(tmp_path):
    rows = [
        {"utterance_id": f"u{i}", "corpus": "c", "audio_uri": f"{i}.wav", "split": "train", "valence": i / 4}
        for i in range(3)
    ]
    lake, front = Lake(LakeConfig(root=str(tmp_path), storage_options={})), frontend(config_of().encoder)
    hashes = []
    for more in ({}, {"dialogue_id": "d", "turn": 1}):
        lake.write_utterances("c", utterances_table([row | more for row in rows]))
        keys = training_rows(lake, "c", [], vectors=False)
        hashes.append(training_set_hash(keys, [], front, AUDIO, TEXT_WIDTH))
    assert hashes[0] != hashes[1]


def test_turns_that_are_missing_or_equal_fall_back_to_the_ids(tmp_path):
    rows = planted_rows(6, seed=1)
    for row, (name, turn) in zip(rows, [("a", 2), ("a", None), ("b", 1), ("a", 2), (None, 0), (None, 0)], strict=True):
        row |= {"dialogue_id": name, "turn": turn, "split": "train"}
    training_set = TrainingSet.open(*pack_rows(str(tmp_path), rows, config_of()))
    batch = training_set.collate([row["utterance_id"] for row in reversed(rows)])
    numbers, turns = batch.dialogue_B.tolist()[::-1], batch.turn_B.tolist()[::-1]
    assert len(set(numbers)) == 4
    assert numbers[0] == numbers[1] == numbers[3]
    assert turns[0] < turns[3] < turns[1]


# --- the loss


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("delta", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("as_released", [False, True])
def test_the_perspective_loss_and_its_gradient_follow_the_formula(as_released, delta):
    random = np.random.default_rng(0)
    z, label = random.normal(size=(3, 7, 4)), np.array([0, 3, -1, 2, 2, 1, 0])  # the third has no label
    there = label >= 0

    def loss(z: np.ndarray) -> float:
        """CE(f) + δ (CE(a) + CE(t)): means of −log p_y; as released, sums of −log softmax(p)_y."""
        scores = np.exp(log_softmax(z)) if as_released else z
        each = -log_softmax(scores)[:, there][:, np.arange(there.sum()), label[there]]
        fused, audio, text = each.sum(1) if as_released else each.mean(1)
        return 0.5 * (fused + delta * (audio + text))

    fused, own = (torch.tensor(part, dtype=torch.float32, requires_grad=True) for part in (z[0], z[1:].swapaxes(0, 1)))
    options = train_config(
        objective={**PUBLISHED, "category": 0.5, "modalities": delta, "as_released": as_released}
    ).objective
    nothing = torch.full((7, 3), torch.nan)
    gathered = GlobalBatch(torch.zeros(7, 3), nothing, torch.tensor(label), logits_NC=fused, modality_logits_NMC=own)
    terms = Objective(options)(gathered)
    assert terms["loss"].item() == pytest.approx(loss(z), abs=1e-5)
    slopes = torch.autograd.grad(terms["loss"], [fused, own], allow_unused=True)
    for_own = torch.zeros_like(own) if slopes[1] is None else slopes[1]
    got = torch.stack([slopes[0], *for_own.unbind(1)]).numpy()
    for place in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[place] = 1e-5
        assert got[place] == pytest.approx((loss(z + step) - loss(z - step)) / 2e-5, abs=1e-5), place


# --- training as a whole


def test_context_finds_what_carried_over(tmp_path):
    """The class of a turn is what the turn before said: heard alone, a turn tells it for first turns only."""
    model = config_of(perspective={"gru": 16})
    train = train_config(
        epochs=16,
        plan={"batch_size": 10, "buckets": 1, "batch_seconds": 1e9},
        objective=PUBLISHED,
        augment={"modality_dropout": 0.0},
        optimizer={"kind": "adam", "lr": 1e-2, "schedule": "constant", "warmup_fraction": 0.0},
    )
    rows = spoken_rows(45, 4, seed=2)
    _, result = run_fit(*pack_rows(str(tmp_path / "talk"), rows, model), model, train)
    assert result.best_score == result.history[result.best_epoch]["uar"] > 0.95
    alone = [row | {"dialogue_id": None, "turn": None} for row in rows]
    _, apart = run_fit(*pack_rows(str(tmp_path / "alone"), alone, model), model, train)
    random = np.random.default_rng(3)
    names = {split: iter(random.permutation([row["dialogue_id"] for row in rows if row["split"] == split]))
             for split in ("train", "dev")}  # fmt: skip
    mixed = [row | {"dialogue_id": next(names[row["split"]])} for row in rows]
    _, shuffled = run_fit(*pack_rows(str(tmp_path / "mixed"), mixed, model), model, train)
    # A first turn in four is certain; of the others half agree by chance: .625.
    assert apart.best_score < 0.8
    assert shuffled.best_score < 0.8


def test_predictions_hear_whole_dialogues_whatever_the_batch_and_the_order(packed):
    (lake, set_hash), _ = packed
    model = config_of()
    train = train_config(epochs=1, plan={"batch_size": 4, "buckets": 1}, objective=PUBLISHED)
    learner, _ = run_fit(lake, set_hash, model, train)
    training_set = TrainingSet.open(lake, set_hash, classes=CLASSES)
    ids = training_set.ids("dev")
    whole = predict(learner.model, training_set, ids, batch_size=64)
    assert whole["utterance_id"].to_list() == ids
    assert {"dialogue_id", "turn"} <= set(whole.columns)
    order = np.random.default_rng(0).permutation(len(ids))
    small = predict(learner.model, training_set, [ids[place] for place in order], batch_size=2).sort("utterance_id")
    one, other = (np.array(frame["emotion_probabilities"].to_list()) for frame in (whole.sort("utterance_id"), small))
    np.testing.assert_allclose(one, other, atol=1e-5)
    some = predict(learner.model, training_set, ids[:3], batch_size=64)
    assert predict(learner.model, training_set, [], batch_size=64).is_empty()  # more workers than dialogues of dev
    lone = np.array(some["emotion_probabilities"].to_list()) - one[:3]
    assert np.abs(lone).max() > 1e-4  # without the turns around them they sound different


def test_uar_selects_where_v_a_and_d_are_not_trained(tmp_path):
    """Labels of all four kinds, an objective of classes alone: the best epoch is the one with the best UAR."""
    model = config_of()
    lake, set_hash = pack_rows(str(tmp_path), planted_rows(40, seed=4), model)
    train = train_config(epochs=4, objective=PUBLISHED, optimizer={"lr": 1e-2})
    _, result = run_fit(lake, set_hash, model, train)
    uars = [metrics["uar"] for metrics in result.history]
    assert "ccc_mean" in result.history[0]
    assert (result.best_score, result.best_epoch) == (max(uars), uars.index(max(uars)))
    _, usual = run_fit(lake, set_hash, model, train_config(epochs=1, objective={"category": 1.0}))
    assert usual.best_score == usual.history[0]["ccc_mean"]


#: Dialogues of up to 5 turns, 5 a batch, each long one a micro-batch by itself: two workers get 3 and 2 of them.
SHARED = {"epochs": 2, "micro_batch_size": 5, "plan": {"batch_size": 5, "buckets": 1}, "objective": PUBLISHED}


def test_two_workers_end_alike_and_like_one(tmp_path):
    model, train = config_of(perspective={"fusion": "early", "operator": "attention"}), train_config(**SHARED)
    # Of one to five turns each: sharded, the second worker lags by several passes in some steps.
    rows = [row for row in spoken_rows(14, 5, seed=5) if row["turn"] // 2 <= int(row["dialogue_id"][1:]) * 3 % 5]
    lake, set_hash = pack_rows(str(tmp_path), rows, model)
    runs = [SharedRun(str(tmp_path), model, train)]
    runs.append(runs[0]._replace(name="sharded", launch=launch_config(sharding="full")))
    mp.spawn(gloo_worker, args=(2, str(tmp_path / "store"), runs), nprocs=2)
    first, second, sharded = (
        torch.load(tmp_path / name, weights_only=True) for name in ("end.0", "end.1", "sharded.0")
    )
    for one, other in zip(first["steps"], sharded["steps"], strict=True):
        assert other == pytest.approx(one, abs=1e-5)
    assert first["history"] == second["history"]
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())
    steps: list[dict[str, float]] = []
    callbacks = Callbacks(on_step=lambda _step, metrics: steps.append(metrics))
    _, alone = run_fit(lake, set_hash, model, train, callbacks)
    for one, other in zip(first["steps"], steps, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["loss_modalities"] == pytest.approx(other["loss_modalities"], abs=1e-5)
    assert first["history"][-1]["uar"] == pytest.approx(alone.history[-1]["uar"], abs=1e-5)


def test_a_run_that_was_killed_inside_an_epoch_ends_like_one_that_was_not(packed):
    (lake, set_hash), _ = packed
    model = model_config(name="perspective", classes=CLASSES, dropout=0.2)
    train = train_config(**SHARED, augment={"modality_dropout": 0.3, "crop_s": 0.1})
    store, launch = (
        Callbacks(on_checkpoint=lambda one: one.push(lake, f"at-{one.step}")),
        launch_config(checkpoint_steps=1),
    )
    learner, result = run_fit(lake, set_hash, model, train, store, launch=launch)
    resumed, second = run_fit(lake, set_hash, model, train, resume=Checkpoint.latest(lake, "at-2"))
    assert second == result
    for name, weight in learner.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    training_set = TrainingSet.open(lake, set_hash, classes=CLASSES)
    again = summarise(predict(resumed.model, training_set, training_set.ids("dev"), batch_size=64), CLASSES)
    assert again["uar"] == pytest.approx(result.best_score, abs=1e-6)


def test_bf16_trains_close_to_fp32(packed):
    (lake, set_hash), _ = packed
    losses = []
    for precision in ("fp32", "bf16"):
        steps: list[float] = []
        train = train_config(**{**SHARED, "epochs": 1}, precision=precision)
        note = Callbacks(on_step=lambda _step, metrics, steps=steps: steps.append(metrics["loss"]))
        run_fit(lake, set_hash, config_of(), train, note)
        losses.append(steps)
    assert losses[1] == pytest.approx(losses[0], abs=0.1)
