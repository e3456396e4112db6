"""Splits for a corpus without its own: whole speakers are assigned."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from emoray.config import Section
from emoray.errors import InputError
from emoray.schema import UNKNOWN_SPEAKER


class SplitFractions(Section):
    """Share of the utterances that each split should get.

    Attributes:
        train: For training.
        dev: For choosing the epoch and for the conformal intervals.
        gate: For the promotion gate.
        test: For the reports.
    """

    train: float
    dev: float
    gate: float
    test: float


def assign_splits(rows: list[dict[str, Any]], shares: SplitFractions, seed: int, key: str) -> None:
    """Assign whole speakers to splits, in the rows' `split`; utterances of unknown speakers go to train.

    Args:
        shares: Share of the utterances per split.
        key: Configuration key of the shares, for messages.

    Raises:
        InputError: All shares are 0.
    """
    fractions = {name: share for name, share in shares.model_dump().items() if share > 0}
    if not fractions:
        raise InputError("all shares are 0", where=key, remedy="Give train a share", kind="no_split")
    clips = Counter(row["speaker_id"] for row in rows if row["speaker_id"] not in (None, UNKNOWN_SPEAKER))
    speakers = sorted(clips)
    np.random.default_rng(seed).shuffle(speakers)
    total = sum(fractions.values())
    missing = {name: share / total * clips.total() for name, share in fractions.items()}
    # Every split gets a speaker before any gets a second; train, then test, come first.
    queue = [name for name in ("train", "test", "dev", "gate") if name in fractions]
    split_of: dict[str, str] = {}
    for speaker in speakers:
        split = queue.pop(0) if queue else max(missing, key=missing.__getitem__)
        split_of[speaker] = split
        missing[split] -= clips[speaker]
    for row in rows:
        row["split"] = split_of.get(row["speaker_id"], "train")
