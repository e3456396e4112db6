"""Clips beyond a recogniser's window are cut where they are quietest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from emoray.audio.io import AUDIO_HZ

#: A long clip is cut within the last so many seconds of the window, in the quietest frame.
CUT_WITHIN_S = 5
FRAME_S = 0.05


def cut_into_pieces(samples: npt.NDArray[np.float32], window_s: float) -> Iterator[npt.NDArray[np.float32]]:
    """Cut float32 (S,) samples at 16 kHz into pieces of at most the window; nothing is lost, nothing overlaps."""
    window, tail_size, frame = int(window_s * AUDIO_HZ), CUT_WITHIN_S * AUDIO_HZ, int(FRAME_S * AUDIO_HZ)
    while len(samples) > window:
        tail = samples[window - tail_size : window].reshape(-1, frame)
        quietest = int(np.argmin(np.square(tail, dtype=np.float64).sum(axis=1)))
        cut = window - tail_size + quietest * frame + frame // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples
