"""What training does in its own process: device, threads, predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import polars as pl
import torch
from torch import nn

from emoray.training.config import LaunchConfig
from emoray.training.data.training_set import TrainingSet
from emoray.training.predict import predict


def predict_levels(
    model: nn.Module, training_set: TrainingSet, ids: Sequence[str], levels: Sequence[str], launch: LaunchConfig
) -> dict[str, pl.DataFrame]:
    """Predictions at each semantic level, as `predict` makes them, in this process; the model is on the CPU afterwards.

    Args:
        launch: Batch size, threads, and whether to compute on a GPU.
    """
    device, size = device_here(launch), launch.eval_batch_size
    model.to(device)
    with torch_threads(launch.threads):
        frames = {level: predict(model, training_set, ids, level, batch_size=size, device=device) for level in levels}
    model.to("cpu")
    return frames


def device_here(launch: LaunchConfig) -> str:
    """Where this process computes: on a GPU if workers do and it sees one."""
    return "cuda" if launch.gpu and torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use so many threads for the time of a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
