"""Peer of P6: Hugging Face's Trainer on one thread, one DataLoader worker, features of all clips in memory.

As in its documentation: a dataset of features, a collator that pads (`fixed`: to the crop's length, `longest`: to the
batch's longest), `group_by_length` for mixed lengths. The model is ours, so that only the trainers differ; its
environment is ours and `accelerate`.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from protocol import serve, task
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from emoray.lake.tables import Lake, LakeConfig
from emoray.models.batch import Batch
from emoray.models.build import build
from emoray.models.config import ModelConfig
from emoray.training.data.training_set import TrainingSet
from emoray.training.objectives import ccc_loss
from emoray.training.seeds import seed_torch

TASK = task()
TRAIN, HOW = TASK["train"], TASK["batches"]
OPTIMIZER = TRAIN["optimizer"]


class Clips(Dataset):
    """Features, text vectors and labels of clips, cut at the crop's length."""

    def __init__(self, training_set: TrainingSet, names: list[str], frames: int) -> None:
        batches = [training_set.collate([name]) for name in names]
        self.clips = [
            {
                "features": batch.features_BTF[0, :frames],
                "text": batch.text_BKE[0],
                "present": batch.present_BK[0],
                "target": batch.target_B3[0],
                "length": min(frames, int(batch.lengths_B[0])),
            }
            for batch in batches
        ]
        for clip in self.clips:
            clip["input_ids"] = range(clip["length"])  # the Trainer's sampler groups by its length

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.clips[index]


class WithLoss(nn.Module):
    """Our model with the Trainer's interface: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        seed_torch(TRAIN["seed"], "weights")
        self.model = build(ModelConfig.model_validate(TASK["model"]))

    def forward(
        self, features: Tensor, lengths: Tensor, text: Tensor, present: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Loss and predictions of a batch."""
        label_B = torch.full((len(features),), -1)
        names = tuple(map(str, range(len(features))))
        prediction_B3 = self.model(Batch(features, lengths, text, present, target, label_B, names)).prediction_B3
        return {"loss": ccc_loss(prediction_B3, target), "prediction": prediction_B3}


def collate(clips: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A padded batch."""
    lengths = [clip["length"] for clip in clips]
    frames = FRAMES if HOW == "fixed" else max(lengths)
    features = torch.zeros(len(clips), frames, clips[0]["features"].shape[1])
    for row, clip in enumerate(clips):
        features[row, : clip["length"]] = clip["features"]
    stacked = {name: torch.stack([clip[name] for clip in clips]) for name in ("text", "present", "target")}
    return {"features": features, "lengths": torch.tensor(lengths), **stacked}


def judged(model: WithLoss) -> dict[str, Any]:
    """The model's predictions on the probe in evaluation mode, and its loss on it."""
    model.eval()
    with torch.inference_mode():
        output = model(**collate(PROBE.clips))
    return {"predictions": output["prediction"].tolist(), "loss": float(output["loss"])}


def fresh() -> None:
    """A new model and a new Trainer."""
    model = WithLoss()
    NOW["before"] = judged(model)
    arguments = TrainingArguments(
        output_dir=TASK["out"],
        num_train_epochs=TRAIN["epochs"],
        per_device_train_batch_size=TRAIN["plan"]["batch_size"],
        learning_rate=OPTIMIZER["lr"],
        weight_decay=OPTIMIZER["weight_decay"],
        adam_beta1=OPTIMIZER["betas"][0],
        adam_beta2=OPTIMIZER["betas"][1],
        max_grad_norm=OPTIMIZER["clip_norm"],
        lr_scheduler_type="cosine",
        warmup_steps=OPTIMIZER["warmup_fraction"],
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length" if HOW == "group_by_length" else "random",
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        remove_unused_columns=False,
        use_cpu=True,
        seed=TRAIN["seed"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    NOW["trainer"] = Trainer(
        model=model, args=arguments, train_dataset=DATA, data_collator=collate, callbacks=[FirstStep()]
    )


class FirstStep(TrainerCallback):
    """Records when the first batch is ready: the start of the DataLoader's worker is not training."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before each step."""
        del args, control
        if state.global_step == 0:
            NOW["began"] = time.perf_counter()


def train() -> None:
    """All epochs."""
    NOW["trainer"].train()
    NOW["seconds"] = time.perf_counter() - NOW["began"]


def found() -> dict[str, Any]:
    """Outputs before and after, and the seconds from the first batch on."""
    trainer = NOW["trainer"]
    return {
        "seconds": NOW["seconds"],
        "before": NOW["before"],
        "after": judged(trainer.model),
        "steps": trainer.state.global_step,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    NOW: dict[str, Any] = {}
    SET = TrainingSet.open(Lake(LakeConfig.model_validate(TASK["lake"])), TASK["set"])
    FRAMES = round(TRAIN["augment"]["crop_s"] * SET.frame_hz)
    DATA, PROBE = Clips(SET, SET.ids("train"), FRAMES), Clips(SET, TASK["probe"], FRAMES)
    serve(train, fresh, found)
