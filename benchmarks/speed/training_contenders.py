"""Contenders that train, one thread each: our worker with data from the lake, and a bare PyTorch loop over tensors.

Both take the batches of one plan, from the same first weights and with the same dropout, so that their losses can be
compared step by step.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch
from benchmarks.speed.peers.protocol import serve
from torch.nn.utils import clip_grad_norm_

from emoray.config import load
from emoray.lake.tables import Lake
from emoray.training.build import build_learner, plan_run
from emoray.training.data.loader import WorkerBatch, make_worker_batch
from emoray.training.data.training_set import TrainingSet
from emoray.training.objectives import ccc_loss
from emoray.training.optimizer import build_optimizer, lr_factor
from emoray.training.predict import predict
from emoray.training.seeds import seed_torch
from emoray.training.step import Learner
from emoray_jobs.cluster.session import session
from emoray_jobs.config import Config
from emoray_jobs.train.ray_loader import RayBatchLoader
from emoray_jobs.train.run_spec import RunSpec


class TrainingTask:
    """An opened training task.

    Args:
        given: The task: `overrides` of the configuration, and `set`, the training set's hash.

    Attributes:
        config: The configuration.
        training_set: The training set.
        ids: Its clips.
        plan: Their batch plan.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.config = load(Config, overrides=given["overrides"], environ={})
        self.training_set = TrainingSet.open(Lake(self.config.lake), given["set"])
        self.ids = self.training_set.ids("train")
        self.plan: pa.Table = plan_run(self.training_set, self.ids, self.config.model, self.config.train)

    def begin(self) -> Learner:
        """Fresh weights, the same each time."""
        config = self.config
        return build_learner(
            self.training_set, self.ids, config.model, config.train, config.launch, total_steps=self.plan.num_rows
        )

    def evaluated(self, learner: Learner, ids: list[str]) -> dict[str, Any]:
        """The model's predictions on clips in evaluation mode, and its loss on them."""
        frame = predict(learner.model, self.training_set, ids, batch_size=self.config.launch.eval_batch_size)
        prediction_N3 = torch.tensor(frame.select("^.*_pred$").drop("emotion_pred").to_numpy(), dtype=torch.float32)
        loss = float(ccc_loss(prediction_N3, self.training_set.targets(ids)))
        return {"predictions": prediction_N3.tolist(), "loss": loss}


def from_lake(given: dict[str, Any]) -> None:
    """Train as a Ray Train worker does: Ray tasks collate ahead of it, in another process.

    The clock starts when the first batch is ready, as in the middle of a run. Results: seconds waited for data, the
    loss of each step, and the predictions on the clips `probe` before and after.
    """
    opened = TrainingTask(given)
    config, plan, probe = opened.config, opened.plan, given.get("probe", [])
    assignment = RunSpec(config.lake, "benchmark", config.model, config.train, config.launch, given["set"], "")
    now: dict[str, Any] = {}

    def reset() -> None:
        learner = opened.begin()
        shares = RayBatchLoader(assignment, 0, 1)(plan, 0)
        now.update(learner=learner, shares=itertools.chain([next(shares)], shares))
        now["before"] = opened.evaluated(learner, probe) if probe else None

    def work() -> None:
        learner, shares, losses, waited_s = now["learner"], now["shares"], [], 0.0
        while (share := timed_next(shares))[0] is not None:
            waited_s += share[1]
            losses.append(learner.step(share[0])["loss"])
        now.update(losses=losses, waited_s=waited_s)

    def found() -> dict[str, Any]:
        after = opened.evaluated(now["learner"], probe) if probe else None
        return {"after": after, **{name: now[name] for name in ("losses", "waited_s", "before")}}

    with session(config.cluster, config.lake):
        serve(work, reset, found)


def timed_next(shares: Iterator[WorkerBatch]) -> tuple[WorkerBatch | None, float]:
    """The next share, or None, and the seconds of the wait."""
    began = time.perf_counter()
    share = next(shares, None)
    return share, time.perf_counter() - began


def in_memory(given: dict[str, Any]) -> None:
    """A bare PyTorch loop over the same batches, all collated before the clock starts. Results: losses."""
    opened = TrainingTask(given)
    train, total = opened.config.train, opened.plan.num_rows
    batches = [make_worker_batch(opened.training_set, row, train, 0, 1).batches[0] for row in opened.plan.to_pylist()]
    now: dict[str, Any] = {}

    def reset() -> None:
        model = opened.begin().model
        now.update(model=model.train(), optimizer=build_optimizer(model, train.optimizer))

    def work() -> dict[str, Any]:
        model, optimizer, losses = now["model"], now["optimizer"], []
        base_lr = [group["lr"] for group in optimizer.param_groups]
        for step, batch in enumerate(batches):
            for group, base in zip(optimizer.param_groups, base_lr, strict=True):
                group["lr"] = base * lr_factor(step, total, train.optimizer)
            optimizer.zero_grad(set_to_none=True)
            seed_torch(train.seed, "dropout", step, 0)
            loss = ccc_loss(model(batch).prediction_B3, batch.target_B3)
            loss.backward()
            clip_grad_norm_(model.parameters(), train.optimizer.clip_norm or float("inf"))
            optimizer.step()
            losses.append(loss.item())
        return {"losses": losses}

    serve(work, reset)
