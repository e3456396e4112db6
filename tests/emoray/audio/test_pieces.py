"""Long clips are cut where nobody speaks."""

from __future__ import annotations

import numpy as np

from emoray.audio.pieces import cut_into_pieces

WINDOW_S = 30


def test_pieces_are_cut_in_the_quiet_and_nothing_is_lost():
    samples = np.ones(70 * 16_000, np.float32)
    samples[27 * 16_000 : 27 * 16_000 + 1600] = 0.0
    pieces = list(cut_into_pieces(samples, WINDOW_S))
    assert np.array_equal(np.concatenate(pieces), samples)
    assert all(0 < len(piece) <= WINDOW_S * 16_000 for piece in pieces)
    assert 27 * 16_000 <= len(pieces[0]) <= 27 * 16_000 + 1600
