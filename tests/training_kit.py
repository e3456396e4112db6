"""Small models and a planted corpus for tests of models and training; importable by the processes that they spawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from emoray.audio.io import AudioConfig
from emoray.config import merge, read_preset, validate
from emoray.errors import TrainingError
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.batch import Batch
from emoray.models.build import frontend
from emoray.models.config import ModelConfig
from emoray.schema import GRANULARITIES
from emoray.training.build import build_learner, plan_run
from emoray.training.checkpoint import Checkpoint
from emoray.training.config import LaunchConfig, TrainConfig
from emoray.training.data.loader import LocalLoader
from emoray.training.data.pack import column, pack_shard, seal, write_shard
from emoray.training.data.training_set import TrainingSet
from emoray.training.fit import Callbacks, DevEvaluation, FitResult, fit
from emoray.training.sharding import full_tensor
from emoray.training.step import Learner

TEXT_WIDTH = 12
CONDITION = "enrolled-5/reference"
#: The fewest that CNN14 can pool five times.
CNN14_MELS = 32
AUDIO = AudioConfig(min_duration_s=0.1, max_duration_s=60.0, silence_dbfs=-70.0)
TINY_MODEL: dict[str, Any] = {
    "width": 16,
    "hidden": 16,
    "attention": 8,
    "text_width": TEXT_WIDTH,
    "encoder": {
        "kind": "logmel",
        "speaker_norms": False,
        "logmel": {"mels": 12, "width": 16, "heads": 2, "layers": 1, "strides": [2, 2]},
        "cnn14": {"mels": CNN14_MELS, "width": 1 / 64},
    },
    "fusion": {"moe": {"experts": 3, "inner": 8}, "heads": 2},
    "perspective": {"gru": 8},
}
NO_DROPOUT = {
    "dropout": 0.0,
    "encoder": {"logmel": {"dropout": 0.0}, "cnn14": {"dropout": 0.0}, "moonshine": {"dropout": 0.0}},
    "emosphere": {"dropout": 0.0},
}


def model_config(**changes: Any) -> ModelConfig:
    return validate(ModelConfig, merge(merge(read_preset("laptop")["model"], TINY_MODEL), changes))


def train_config(**changes: Any) -> TrainConfig:
    return validate(TrainConfig, merge(read_preset("laptop")["train"], changes))


def launch_config(**changes: Any) -> LaunchConfig:
    return validate(LaunchConfig, merge(read_preset("laptop")["launch"], changes))


def random_batch(clips: int, width: int, seed: int = 0, frames: tuple[int, int] = (7, 60)) -> Batch:
    """Random clips of different lengths, with some text vectors absent."""
    torch.manual_seed(seed)
    lengths = torch.randint(*frames, (clips,))
    features = torch.randn(clips, int(lengths.max()), width)
    for clip, length in enumerate(lengths):
        features[clip, length:] = 0
    present = torch.rand(clips, 3) < 0.6
    return Batch(
        features_BTF=features,
        lengths_B=lengths,
        text_BKE=torch.randn(clips, 3, TEXT_WIDTH) * present.unsqueeze(-1),
        present_BK=present,
        target_B3=torch.rand(clips, 3),
        label_B=torch.randint(0, 2, (clips,)),
        utterance_ids=tuple(f"clip-{clip}" for clip in range(clips)),
    )


def planted_rows(clips: int, seed: int) -> list[dict[str, Any]]:
    """Arousal in the loudness, valence in GS but for a sign that LES carries, dominance in ES."""
    random = np.random.default_rng(seed)
    way = np.random.default_rng(99).normal(size=(3, TEXT_WIDTH)).astype(np.float32)
    rows = []
    for clip in range(clips):
        valence, arousal, dominance = random.uniform(-1, 1, 3)
        sign = random.choice([-1.0, 1.0])
        noise = random.normal(scale=0.1, size=(3, TEXT_WIDTH)).astype(np.float32)
        samples = random.normal(size=int(random.uniform(3200, 8000))).astype(np.float32) * 0.02 * np.exp(1.5 * arousal)
        rows.append(
            {
                "utterance_id": f"u{clip:04d}",
                "split": "train" if clip % 4 else "dev",
                "fold": None,
                "speaker_id": f"s{clip % 7}",
                "gender": "female" if clip % 2 else "male",
                "scale_min": 1.0,
                "scale_max": 7.0,
                "valence": (valence + 1) / 2,
                "arousal": (arousal + 1) / 2,
                "dominance": (dominance + 1) / 2,
                "emotion": "high" if arousal > 0 else "low",
                "les": sign * way[0] + noise[0],
                "gs": sign * valence * way[1] + noise[1],
                "es": dominance * way[2] + noise[2],
                "waveform": samples.astype(np.float32),
            }
        )
    return rows


def under(condition: str, row: dict[str, Any], *, usable: bool = True) -> dict[str, Any]:
    """A row whose text vectors are those under a condition."""
    vectors = {column(name, condition): row.get(name) for name in GRANULARITIES}
    return {**row, **vectors, column("usable", condition): usable}


def pack_rows(folder: str, rows: list[dict[str, Any]], config: ModelConfig, shard_rows: int = 64) -> tuple[Lake, str]:
    """Pack rows (with their waveforms) as a sealed training set."""
    lake = Lake(LakeConfig(root=folder, storage_options={}))
    front = frontend(config.encoder)
    rows = [row if column("usable", CONDITION) in row else under(CONDITION, row) for row in rows]
    names = [name.partition("@")[2] for name in rows[0] if name.startswith("usable@")]
    shards = [
        write_shard(lake, "set", number, pack_shard(rows[start : start + shard_rows], names, front, AUDIO, TEXT_WIDTH))
        for number, start in enumerate(range(0, len(rows), shard_rows))
    ]
    counts = {"rows": len(rows), "left_out": 0}
    seal(lake, "set", shards, conditions=names, frontend=front, text_width=TEXT_WIDTH, counts=counts)
    return lake, "set"


def run_fit(
    lake: Lake,
    set_hash: str,
    model: ModelConfig,
    train: TrainConfig,
    callbacks: Callbacks | None = None,
    resume: Any = None,
    launch: LaunchConfig | None = None,
) -> tuple[Learner, FitResult]:
    """Train in this process, as one worker of however many the process group has."""
    training_set = TrainingSet.open(lake, set_hash, classes=model.classes)
    ids = training_set.ids("train")
    plan = plan_run(training_set, ids, model, train)
    learner = build_learner(training_set, ids, model, train, launch or launch_config(), total_steps=plan.num_rows)
    loader = LocalLoader(training_set, train, learner.rank, learner.world)
    evaluate = DevEvaluation(training_set, training_set.ids("dev"))
    return learner, fit(learner, plan, loader, evaluate, callbacks=callbacks, resume=resume)


class SharedRun(NamedTuple):
    """A training that several processes share.

    Attributes:
        folder: The lake of its packed training set; the end goes to `<name>.<rank>` in it.
        model: The model.
        train: How it is trained.
        name: Its name; each of its checkpoints is kept as run `<name>-<step>` of the lake.
        resume: Such a checkpoint to resume from.
        stop_after: Steps after which the last process, and no other, is asked to stop.
        launch: How it is carried out; None for the preset's way.
    """

    folder: str
    model: ModelConfig
    train: TrainConfig
    name: str = "end"
    resume: str | None = None
    stop_after: int | None = None
    launch: LaunchConfig | None = None


def gloo_worker(rank: int, world: int, store: str, runs: list[Any]) -> None:
    """One of several processes that train together; `runs` are `SharedRun`s, or what these begin with."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        for run in (SharedRun(*run) for run in runs):
            torch.save(_share_run(run, rank), f"{run.folder}/{run.name}.{rank}")
    finally:
        torch.distributed.destroy_process_group()


def _share_run(run: SharedRun, rank: int) -> dict[str, Any]:
    lake = Lake(LakeConfig(root=run.folder, storage_options={}))
    steps: list[dict[str, float]] = []

    def keep(checkpoint: Checkpoint) -> None:
        if rank == 0:
            checkpoint.push(lake, f"{run.name}-{checkpoint.step}")

    callbacks = Callbacks(
        on_step=lambda _step, metrics: steps.append(metrics),
        on_checkpoint=keep,
        should_stop=lambda: rank > 0 and len(steps) == run.stop_after,
    )
    resume = Checkpoint.latest(lake, run.resume) if run.resume else None
    try:
        learner, result = run_fit(lake, "set", run.model, run.train, callbacks, resume, run.launch)
    except TrainingError as error:
        return {"error": str(error)}
    states = [value for slots in learner.optimizer.state.values() for value in slots.values()]
    return {
        "weights": {name: full_tensor(tensor) for name, tensor in learner.model.state_dict().items()},
        "steps": steps,
        "history": result.history,
        "held": held(learner.model.parameters()),
        "held_state": held(value for value in states if value.dim()),
    }


def held(tensors: Iterable[torch.Tensor]) -> int:
    """How many numbers of these tensors are in this process."""
    return sum((getattr(tensor, "to_local", lambda tensor=tensor: tensor)()).numel() for tensor in tensors)
