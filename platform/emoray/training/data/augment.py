"""Random changes to one training clip. Shapes: T frames, F features, K granularities."""

from __future__ import annotations

import numpy as np

from emoray.models.batch import LEVELS
from emoray.schema import GRANULARITIES
from emoray.training.config import AugmentConfig

#: What is left of the text vectors where some are missing.
SMALLER_SETS = tuple(names for level, names in LEVELS.items() if level != "full")


def change(
    features_TF: np.ndarray,
    present_K: np.ndarray,
    config: AugmentConfig,
    frame_hz: float,
    mels: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a clip, take text vectors away and mask its features (SpecAugment, arXiv 1904.08779, without warping).

    Text vectors are taken away as they are missing in use, a set of them at a time (`SMALLER_SETS`) [ours].

    `features_TF` are not changed. The last `mels` of a frame's features are log-mels: bands are masked among them, time
    in all features. A waveform (F = 1) gets no mask. `random` is the clip's own generator.

    Returns:
        Features of the crop, and which text vectors are left.
    """
    # All numbers are always drawn, so that one option does not change the draws of the others.
    position, draw, which = random.random(), random.random(), random.integers(len(SMALLER_SETS))
    kept_K = np.array([draw >= config.modality_dropout or name in SMALLER_SETS[which] for name in GRANULARITIES])
    frames = len(features_TF)
    if config.crop_s is not None:
        longest = max(1, round(config.crop_s * frame_hz))
        start = int(position * (max(frames - longest, 0) + 1))
        features_TF = features_TF[start : start + longest]
        frames = len(features_TF)
    width = features_TF.shape[1]
    if width > 1 and (config.time_masks or config.mel_masks):
        features_TF = features_TF.copy()
        for _ in range(config.time_masks):
            # At most a fifth of the clip, so that a short one keeps its words.
            size = int(random.uniform(0, min(config.time_mask_s * frame_hz, frames / 5)))
            start = int(random.uniform(0, frames - size))
            features_TF[start : start + size] = 0
        for _ in range(config.mel_masks if mels else 0):
            size = int(random.uniform(0, min(config.mel_mask_width, mels) + 1))
            start = width - mels + int(random.uniform(0, mels - size + 1))
            features_TF[:, start : start + size] = 0
    return features_TF, present_K & kept_K
