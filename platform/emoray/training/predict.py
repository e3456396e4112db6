"""Predictions of a model over a packed training set, in the format of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
import torch.distributed as dist
from torch import nn

from emoray.models.build import OVER_DIALOGUES
from emoray.schema import DIMENSIONS
from emoray.training.data.batch_plan import group_positions, group_up_to
from emoray.training.data.training_set import TrainingSet
from emoray.training.objectives import ccc
from emoray.training.sharding import max_passes


def inseparable_groups(model: nn.Module, training_set: TrainingSet, ids: Sequence[str]) -> list[np.ndarray]:
    """Positions of the clips that a model needs together: those of a dialogue, or single clips."""
    return group_positions(training_set.dialogues(ids) if isinstance(model, OVER_DIALOGUES) else np.arange(len(ids)))


def predict(
    model: nn.Module,
    training_set: TrainingSet,
    ids: Sequence[str],
    level: str = "full",
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> pl.DataFrame:
    """Score whole clips in evaluation mode, fp32; a model of dialogues gets all given turns of each.

    Clips that do not count under the level's condition are left out (`TrainingSet.usable`).

    Args:
        model: The model; its training mode is restored. If it is sharded, every worker calls this, with any clips or
            none.
        level: One of `emoray.models.batch.LEVELS`: the text vectors that the model may use; and after a slash the
            condition that they and the speaker are of, the first one if left out.
        batch_size: Clips of one forward pass; a longer dialogue is alone.

    Returns:
        One row per clip that counts, in the order of `ids`: utterance_id, speaker_id, dialogue_id, turn, gender, split,
        fold, duration_s, scale_min, scale_max, level, {valence,arousal,dominance}_true and _pred in [0, 1],
        emotion_true, emotion_pred (null without a categorical head), emotion_probabilities, gates and experts (lists;
        null if the model has none).
    """
    was_training = model.training
    model.eval()
    vectors, _, named = level.partition("/")
    condition = named or training_set.conditions[0]
    if named or vectors != "audio" or hasattr(model, "speaker_norms"):
        ids = training_set.usable(ids, condition)
    lengths_s = np.asarray(training_set.durations_s(ids))
    columns: dict[str, list[object]] = {name: [None] * len(ids) for name in _MODEL_COLUMNS}
    with torch.inference_mode():
        units = sorted(inseparable_groups(model, training_set, ids), key=lambda clips: float(lengths_s[clips].max()))
        parts = list(group_up_to(units, batch_size))
        most, _ = max_passes(model, len(parts), device)
        for part in parts:
            places = np.concatenate(part)
            batch = training_set.collate([ids[place] for place in places], condition=condition)
            batch = batch.at_level(vectors).to(device)
            output = model(batch)
            probability = None if output.logits_BC is None else output.logits_BC.softmax(-1).tolist()
            prediction = output.prediction_B3.tolist()
            gates = None if output.gates_BK is None else output.gates_BK.tolist()
            experts = None if output.experts_B3E is None else output.experts_B3E.tolist()
            for row, place in enumerate(places):
                for d, name in enumerate(DIMENSIONS):
                    columns[f"{name}_pred"][place] = prediction[row][d]
                if probability is not None:
                    columns["emotion_probabilities"][place] = probability[row]
                    columns["emotion_pred"][place] = training_set.classes[int(np.argmax(probability[row]))]
                columns["gates"][place] = None if gates is None else gates[row]
                columns["experts"][place] = None if experts is None else experts[row]
        for _ in range(most - len(parts)):
            model(training_set.collate(training_set.frame["utterance_id"][:1].to_list()).to(device))
    model.train(was_training)
    keys = pl.DataFrame({"utterance_id": list(ids)}, schema={"utterance_id": pl.String}).join(
        training_set.frame, on="utterance_id", how="left", maintain_order="left"
    )
    keys = keys.rename({**{name: f"{name}_true" for name in DIMENSIONS}, "emotion": "emotion_true"})
    return keys.with_columns(
        pl.lit(level).alias("level"),
        *(pl.Series(name, columns[name], dtype=kind) for name, kind in _MODEL_COLUMNS.items()),
    )


_MODEL_COLUMNS: dict[str, pl.DataType] = {
    **{f"{name}_pred": pl.Float64() for name in DIMENSIONS},
    "emotion_pred": pl.String(),
    "emotion_probabilities": pl.List(pl.Float64()),
    "gates": pl.List(pl.Float64()),
    "experts": pl.List(pl.List(pl.Float64())),
}


def gather_predictions(frame: pl.DataFrame) -> pl.DataFrame:
    """Join the workers' parts of a prediction frame, on every worker, in rank order."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return frame
    parts: list[bytes] = [b""] * dist.get_world_size()
    dist.all_gather_object(parts, frame.serialize())
    return pl.concat([pl.DataFrame.deserialize(part) for part in parts])


def summarise(frame: pl.DataFrame, classes: Sequence[str] = (), *, by_classes: bool = False) -> dict[str, float]:
    """CCC per dimension and mean, UAR if classes are predicted, and the `score` that selects a model.

    The score is the mean CCC; UAR in a corpus without dimensional labels, or with `by_classes`, if only classes are
    trained. Clips of other classes than the model's do not count in UAR.
    """
    metrics: dict[str, float] = {}
    for name in DIMENSIONS:
        labelled = frame.filter(pl.col(f"{name}_true").is_not_null())
        if labelled.height > 1:
            pair = (
                torch.tensor(labelled[f"{name}_{kind}"].to_list(), dtype=torch.float64) for kind in ("pred", "true")
            )
            metrics[f"ccc_{name}"] = float(ccc(*pair))
    if metrics:
        metrics["ccc_mean"] = sum(metrics.values()) / len(metrics)
        metrics["score"] = metrics["ccc_mean"]
    known = frame.filter(pl.col("emotion_true").is_in(list(classes)) & pl.col("emotion_pred").is_not_null())
    if known.height:
        hits = known.group_by("emotion_true").agg(
            (pl.col("emotion_true") == pl.col("emotion_pred")).mean().alias("recall")
        )
        metrics["uar"] = float(hits["recall"].to_numpy().mean())
        if by_classes or "score" not in metrics:
            metrics["score"] = metrics["uar"]
    return metrics
