from __future__ import annotations

import numpy as np
from training_kit import train_config

from emoray.training.data.augment import change

MASKS = train_config(augment={"time_masks": 1, "mel_masks": 2, "mel_mask_width": 4}).augment


def masked(width, mels, seed):
    """What one draw changes: frames that are zero as a whole, and columns that are."""
    features, _ = change(np.ones((50, width)), np.ones(3, bool), MASKS, 41.7, mels, np.random.default_rng(seed))
    return (features == 0).all(1).sum(), np.flatnonzero((features == 0).all(0))


def test_bands_are_masked_among_the_log_mels_alone():
    seen = [masked(30, 10, seed) for seed in range(40)]
    assert {int(column) for _, columns in seen for column in columns} == set(range(20, 30))
    assert any(frames for frames, _ in seen)


def test_states_without_log_mels_are_masked_in_time_alone():
    seen = [masked(30, 0, seed) for seed in range(40)]
    assert all(len(columns) == 0 for _, columns in seen)
    assert any(frames for frames, _ in seen)
