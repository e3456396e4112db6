"""Checkpoints: everything that a run needs to resume as if it had never stopped, written whole or not at all.

Frozen weights are left out: they come from the encoder's own checkpoint. States of generators are not needed: all
random numbers are derived from seed and step (`emoray.training.seeds`).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor, nn

from emoray.errors import LakeError, TrainingError
from emoray.lake.tables import Lake
from emoray.training.sharding import full_tensor, shard_like

WEIGHTS, BEST, OPTIMIZER, STATE = "model.safetensors", "best.safetensors", "optimizer.pt", "state.json"
#: Fields that `state.json` stores as they are.
STATE_FIELDS = ("step", "best_epoch", "stale_epochs", "history", "pending", "plan")


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        step: The next step.
        weights: Trained weights and buffers.
        optimizer: State of the optimiser, of all workers together.
        best: Weights of the best epoch so far; None before the first.
        best_epoch: That epoch; −1 before the first.
        best_score: Its dev score; −inf before the first.
        stale_epochs: Epochs since then.
        history: Dev metrics of every finished epoch.
        pending: Metrics of the steps and epochs since the previous checkpoint, as {"step": …, name: value}: if they are
            logged once this one is stored, no step is logged twice.
        plan: Fingerprint of the batch plan of the steps.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Tensor] | None
    best_epoch: int
    best_score: float
    stale_epochs: int
    history: list[dict[str, float]]
    pending: list[dict[str, float]]
    plan: str

    def push(self, lake: Lake, run: str) -> str:
        """Store as `checkpoints/<run>/<step>/` in the lake, `state.json` last: only a folder with it is complete."""
        for name, data in self._files().items():
            lake.write_bytes(data, "checkpoints", run, _name(self.step), name)
        return lake.uri("checkpoints", run, _name(self.step))

    @classmethod
    def latest(cls, lake: Lake, run: str) -> Checkpoint | None:
        """The last complete checkpoint of a run, or None.

        Raises:
            TrainingError: One of its files is damaged.
        """
        steps = checkpoint_steps(lake, run)
        if not steps:
            return None
        where = ("checkpoints", run, _name(steps[-1]))
        files = {}
        for name in (STATE, WEIGHTS, OPTIMIZER, BEST):
            try:
                files[name] = lake.read_bytes(*where, name)
            except LakeError as error:
                if error.kind != "missing_file" or name != BEST:
                    raise
        return cls._from_files(files, lake.uri(*where))

    def _files(self) -> dict[str, bytes]:
        buffer = io.BytesIO()
        torch.save(self.optimizer, buffer)
        files = {WEIGHTS: safetensors.torch.save(_plain(self.weights)), OPTIMIZER: buffer.getvalue()}
        if self.best is not None:
            files[BEST] = safetensors.torch.save(_plain(self.best))
        state = {name: getattr(self, name) for name in STATE_FIELDS}
        state["best_score"] = self.best_score if self.best is not None else None
        state["bytes"] = {name: len(data) for name, data in files.items()}
        files[STATE] = json.dumps(state).encode()
        return files

    @classmethod
    def _from_files(cls, files: dict[str, bytes], where: str) -> Checkpoint:
        state: dict[str, Any] = json.loads(files[STATE])
        for name, size in state["bytes"].items():
            if len(files.get(name, b"")) != size:
                what = f"not a whole checkpoint: {name} is missing or truncated"
                raise TrainingError(what, where=where, kind="bad_checkpoint")
        return cls(
            **{name: state[name] for name in STATE_FIELDS},
            weights=safetensors.torch.load(files[WEIGHTS]),
            optimizer=torch.load(io.BytesIO(files[OPTIMIZER]), map_location="cpu", weights_only=True),
            best=safetensors.torch.load(files[BEST]) if BEST in state["bytes"] else None,
            best_score=float("-inf") if state["best_score"] is None else state["best_score"],
        )


def checkpoint_steps(lake: Lake, run: str) -> list[int]:
    """Steps of a run's complete checkpoints, in order."""
    names = lake.list_folders("checkpoints", run)
    return sorted(int(name) for name in names if name.isdigit() and lake.exists("checkpoints", run, name, STATE))


def prune(lake: Lake, run: str, keep: int) -> None:
    """Remove all but the last `keep` checkpoints of a run; first `state.json`, so that none is incomplete."""
    for step in checkpoint_steps(lake, run)[:-keep]:
        lake.fs.rm_file(lake.path("checkpoints", run, _name(step), STATE))
        lake.fs.rm(lake.path("checkpoints", run, _name(step)), recursive=True)


def _name(step: int) -> str:
    return f"{step:09d}"


def _plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Full copies, on the CPU, of the weights that training changes, and of all buffers.

    For a sharded model every worker must call this.
    """
    return {name: full_tensor(tensor).to("cpu", copy=True) for name, tensor in _trained(model).items()}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def load_trained_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load trained weights; of a sharded model each worker loads its shard.

    Raises:
        TrainingError: They are of another model.
    """
    kept = _trained(model)
    expected = {name: tensor.shape for name, tensor in kept.items()}
    given = {name: tensor.shape for name, tensor in weights.items()}
    if expected != given:
        different = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise TrainingError(
            f"the checkpoint is of another model: {', '.join(different[:3])} differ ({len(different)} in all)",
            remedy="Resume with the configuration that the run started with, or start a new run",
            kind="mismatched_checkpoint",
        )
    model.load_state_dict({name: shard_like(tensor, kept[name]) for name, tensor in weights.items()}, strict=False)


def plan_fingerprint(plan: pa.Table) -> str:
    """Fingerprint of a batch plan."""
    digest = hashlib.blake2b(digest_size=8)
    for row in plan.drop_columns(["seconds"]).to_pylist():
        digest.update(f"{row['epoch']}\x1f{row['step']}\x1f{chr(31).join(row['utterance_ids'])}\n".encode())
        if "dialogue_clips" in row:
            digest.update(f"{row['dialogue_clips']}\n".encode())
    return digest.hexdigest()
