from __future__ import annotations

import functools

import pytest
import torch
from error_kit import of_kind
from training_kit import NO_DROPOUT, launch_config, model_config, pack_rows, planted_rows, run_fit, train_config

from emoray.errors import LakeError, StoppedError, TrainingError
from emoray.training.checkpoint import Checkpoint, checkpoint_steps, prune, trained_weights
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import Callbacks
from emoray.training.predict import predict, summarise

TRAIN = {
    "epochs": 3,
    "micro_batch_size": 8,
    "plan": {"batch_size": 16, "buckets": 2},
    "augment": {"crop_s": 0.3, "modality_dropout": 0.3, "time_masks": 1},
}
#: Checkpoints inside an epoch, too.
fit_often = functools.partial(run_fit, launch=launch_config(checkpoint_steps=2))


class KilledError(Exception):
    """What stops a run in the middle."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack_rows(str(tmp_path_factory.mktemp("packed")), planted_rows(60, seed=2), model_config())


def logged(records: list[dict[str, float]]) -> list[tuple[float, frozenset[str]]]:
    return [(record["step"], frozenset(record)) for record in records]


@pytest.mark.parametrize("killed_at", [0, 2, 3, 5])
def test_a_killed_and_resumed_run_ends_like_an_unbroken_one(packed, killed_at):
    """Dropout, crops, masks and dropped text are on; kills inside an epoch, at its end, before the first checkpoint."""
    lake, set_hash = packed
    run, whole_run = f"killed-{killed_at}", f"whole-{killed_at}"
    model, train = model_config(dropout=0.3), train_config(**TRAIN)
    unbroken: list[dict[str, float]] = []

    def keep(records: list, name: str):
        def store(checkpoint: Checkpoint) -> None:
            checkpoint.push(lake, name)
            records.extend(checkpoint.pending)

        return store

    learner, result = fit_often(lake, set_hash, model, train, Callbacks(on_checkpoint=keep(unbroken, whole_run)))

    broken: list[dict[str, float]] = []

    def kill(step: int, _metrics: dict[str, float]) -> None:
        if step == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        fit_often(lake, set_hash, model, train, Callbacks(on_step=kill, on_checkpoint=keep(broken, run)))
    resumed, second = fit_often(
        lake,
        set_hash,
        model,
        train,
        Callbacks(on_checkpoint=keep(broken, run)),
        resume=Checkpoint.latest(lake, run),
    )
    assert second == result
    assert broken == unbroken
    assert len(set(logged(broken))) == len(broken)  # no step is logged twice
    for name, weight in learner.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    last, same = Checkpoint.latest(lake, whole_run), Checkpoint.latest(lake, run)
    for name, weight in last.weights.items():
        assert torch.equal(weight, same.weights[name]), name


@pytest.mark.parametrize("asked_at", [1, 3, 4])
def test_a_run_that_is_asked_to_stop_checkpoints_and_goes_on_as_if_it_had_not(packed, asked_at):
    """Asked between two interval checkpoints, where an epoch ends, and again before the next interval."""
    lake, set_hash = packed
    model, train = model_config(dropout=0.3), train_config(**TRAIN)
    often = launch_config(checkpoint_steps=3)
    whole: list[Checkpoint] = []
    _, result = run_fit(lake, set_hash, model, train, Callbacks(on_checkpoint=whole.append), launch=often)
    kept: list[Checkpoint] = []
    stop = Callbacks(
        on_checkpoint=kept.append, should_stop=lambda: len(seen) == asked_at, on_step=lambda *_: seen.append(0)
    )
    seen: list[int] = []
    with pytest.raises(StoppedError, match=f"{asked_at} of {result.steps}", check=of_kind("stopped")):
        run_fit(lake, set_hash, model, train, stop, launch=often)
    assert kept[-1].step == asked_at
    go_on = Callbacks(on_checkpoint=kept.append)
    _, second = run_fit(lake, set_hash, model, train, go_on, resume=kept[-1], launch=often)
    assert second == result
    assert [one.step for one in kept] == sorted({one.step for one in whole} | {asked_at})
    assert [row for one in kept for row in one.pending] == [row for one in whole for row in one.pending]
    assert all(torch.equal(weight, kept[-1].weights[name]) for name, weight in whole[-1].weights.items())


def test_a_finished_run_resumes_to_its_end(packed):
    lake, set_hash = packed
    model, train = model_config(), train_config(**TRAIN)
    checkpoints: list[Checkpoint] = []
    learner, result = fit_often(lake, set_hash, model, train, Callbacks(on_checkpoint=checkpoints.append))
    again, second = fit_often(lake, set_hash, model, train, resume=checkpoints[-1])
    assert second == result
    assert all(torch.equal(w, again.model.state_dict()[n]) for n, w in learner.model.state_dict().items())


def test_a_checkpoint_survives_the_lake(packed):
    lake, set_hash = packed
    kept: list[Checkpoint] = []
    fit_often(
        lake, set_hash, model_config(), train_config(**{**TRAIN, "epochs": 1}), Callbacks(on_checkpoint=kept.append)
    )
    kept[-1].push(lake, "stored")
    read = Checkpoint.latest(lake, "stored")
    for name in ("step", "pending", "history", "plan", "best_score", "best_epoch", "stale_epochs"):
        assert getattr(read, name) == getattr(kept[-1], name)
    assert all(torch.equal(weight, read.weights[name]) for name, weight in kept[-1].weights.items())
    assert all(torch.equal(weight, read.best[name]) for name, weight in kept[-1].best.items())


def test_a_half_written_checkpoint_is_none_and_a_damaged_one_is_named(packed):
    lake, set_hash = packed
    kept: list[Checkpoint] = []
    fit_often(
        lake, set_hash, model_config(), train_config(**{**TRAIN, "epochs": 1}), Callbacks(on_checkpoint=kept.append)
    )
    early, late = kept[0], kept[-1]
    early.push(lake, "half")
    late.push(lake, "half")
    lake.fs.rm_file(lake.path("checkpoints", "half", f"{late.step:09d}", "state.json"))  # the file that comes last
    assert checkpoint_steps(lake, "half") == [early.step]
    assert Checkpoint.latest(lake, "half").step == early.step
    assert Checkpoint.latest(lake, "never") is None
    where = ("checkpoints", "half", f"{early.step:09d}")
    lake.write_bytes(lake.read_bytes(*where, "optimizer.pt")[:-5], *where, "optimizer.pt")
    with pytest.raises(TrainingError, match=r"optimizer\.pt", check=of_kind("bad_checkpoint")):
        Checkpoint.latest(lake, "half")
    lake.fs.rm_file(lake.path(*where, "model.safetensors"))
    with pytest.raises(LakeError, match=r"model\.safetensors", check=of_kind("missing_file")):
        Checkpoint.latest(lake, "half")


def test_old_checkpoints_are_pruned(packed):
    lake, set_hash = packed
    fit_often(
        lake, set_hash, model_config(), train_config(**TRAIN), Callbacks(on_checkpoint=lambda c: c.push(lake, "many"))
    )
    steps = checkpoint_steps(lake, "many")
    assert len(steps) > 2
    prune(lake, "many", keep=2)
    assert checkpoint_steps(lake, "many") == steps[-2:]


def test_a_checkpoint_of_another_plan_or_model_is_refused(packed):
    lake, set_hash = packed
    kept: list[Checkpoint] = []
    fit_often(lake, set_hash, model_config(), train_config(**TRAIN), Callbacks(on_checkpoint=kept.append))
    with pytest.raises(TrainingError, check=of_kind("mismatched_checkpoint"), match="step"):
        fit_often(lake, set_hash, model_config(), train_config(**TRAIN, seed=1), resume=kept[0])
    with pytest.raises(TrainingError, check=of_kind("mismatched_checkpoint"), match="differ"):
        fit_often(lake, set_hash, model_config(granularities=["gs"]), train_config(**TRAIN), resume=kept[0])


def test_training_stops_early_and_keeps_the_best_weights(packed):
    lake, set_hash = packed
    train = train_config(**{**TRAIN, "epochs": 30, "patience": 2}, optimizer={"lr": 0.05, "schedule": "constant"})
    best: list[dict[str, torch.Tensor]] = []
    learner, result = fit_often(
        lake, set_hash, model_config(), train, Callbacks(on_checkpoint=lambda c: best.append(c.best))
    )
    scores = [metrics["score"] for metrics in result.history]
    assert len(scores) == result.best_epoch + 1 + 2 < 30
    assert result.best_score == max(scores) == scores[result.best_epoch]
    training_set = TrainingSet.open(lake, set_hash)
    selecting, _ = training_set.divide_dev(training_set.ids("dev"))
    again = summarise(predict(learner.model, training_set, selecting, batch_size=64))
    assert again["score"] == pytest.approx(result.best_score, abs=1e-6)
    for name, weight in trained_weights(learner.model).items():
        assert torch.equal(weight, best[-1][name]), name


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_where_classes_alone_are_trained_their_uar_selects(tmp_path, weight):
    model = model_config(name="acoustic", classes=["high", "low"], **NO_DROPOUT)
    lake, set_hash = pack_rows(str(tmp_path), planted_rows(48, seed=5), model)
    train = train_config(epochs=2, plan={"batch_size": 24, "buckets": 1}, objective={"ccc": weight, "category": 1.0})
    _, result = run_fit(lake, set_hash, model, train)
    selects = "ccc_mean" if weight else "uar"
    assert all(metrics["score"] == metrics[selects] for metrics in result.history)
    assert all(metrics["uar"] != metrics["ccc_mean"] for metrics in result.history)


def test_msf_ser_learns_what_was_planted_in_each_part(tmp_path):
    """Arousal is in the sound, valence in GS with its sign in LES, dominance in ES: a level shows what it can know."""
    model = model_config(**NO_DROPOUT)
    lake, set_hash = pack_rows(str(tmp_path), planted_rows(240, seed=3), model)
    train = train_config(epochs=30, plan={"batch_size": 48, "buckets": 1}, optimizer={"lr": 5e-3})
    learner, _ = run_fit(lake, set_hash, model, train)
    training_set = TrainingSet.open(lake, set_hash)
    ids = training_set.ids("dev")
    frames = {
        level: predict(learner.model, training_set, ids, level, batch_size=64)
        for level in ("audio", "transcript", "full")
    }
    ccc = {level: summarise(frame) for level, frame in frames.items()}
    assert min(ccc["full"][f"ccc_{name}"] for name in ("valence", "arousal", "dominance")) > 0.8
    assert ccc["audio"]["ccc_arousal"] > 0.7
    assert max(ccc["audio"]["ccc_valence"], ccc["audio"]["ccc_dominance"], ccc["transcript"]["ccc_dominance"]) < 0.3
    assert ccc["transcript"]["ccc_valence"] > 0.7
    gates = frames["transcript"]["gates"].to_list()
    assert all(share[2] == 0 and sum(share) == pytest.approx(1, abs=1e-5) for share in gates)
    assert all(sum(share) == 0 for share in frames["audio"]["gates"].to_list())

    without_les, _ = run_fit(lake, set_hash, model.model_copy(update={"granularities": ["gs", "es"]}), train)
    ablated = summarise(predict(without_les.model, training_set, ids, batch_size=64))
    assert ablated["ccc_valence"] < ccc["full"]["ccc_valence"] - 0.3
    assert ablated["ccc_dominance"] > 0.8


def test_the_categorical_head_learns_without_dimensional_labels(tmp_path):
    rows = [row | {"valence": None, "arousal": None, "dominance": None} for row in planted_rows(160, seed=4)]
    model = model_config(name="acoustic", classes=["low", "high"], **NO_DROPOUT)
    lake, set_hash = pack_rows(str(tmp_path), rows, model)
    train = train_config(
        epochs=25, plan={"batch_size": 32, "buckets": 1}, objective={"category": 1.0}, optimizer={"lr": 5e-3}
    )
    learner, result = run_fit(lake, set_hash, model, train)
    assert result.best_score == result.history[result.best_epoch]["uar"] > 0.85
    training_set = TrainingSet.open(lake, set_hash, classes=model.classes)
    frame = predict(learner.model, training_set, training_set.ids("dev"), batch_size=64)
    assert set(frame["emotion_pred"]) == {"low", "high"}
