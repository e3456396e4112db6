"""Regions of the valence-arousal-dominance cube, the targets of EmoSphere-SER's second head (arXiv 2505.19693).

Labels x in [0, 1] are centred, x' = 2x − 1. Shapes: N clips, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import torch
from torch import Tensor

from emoray.models.config import Regions
from emoray.schema import DIMENSIONS

#: Keeps angles on a grid line on its far side, whatever the rounding.
_NUDGE = 1e-6


def region_count(regions: Regions) -> int:
    """Number of regions R: 8 octants, or the cells of a grid of angles: 73 (30°), 33 (45°), 19 (60°), 4 (180°)."""
    if regions == "octants":
        return 8
    rows, columns = 180 // regions, 360 // regions
    # θ = 180° is a separate row, which is one point and so one cell; of two columns both are kept.
    return rows * columns + (columns if columns == 2 else 1)


def spherical(target_N3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels in spherical form: r = ‖x'‖, θ = arccos(V' / r), φ = atan2(D', A'); r = 0 has θ = φ = 0 [code].

    Returns:
        r, θ in [0, π] and φ in (−π, π], each (N,) float64.
    """
    valence_N, arousal_N, dominance_N = _centred(target_N3).unbind(1)
    radius_N = (valence_N.square() + arousal_N.square() + dominance_N.square()).sqrt()
    there_N = radius_N > 0
    theta_N = torch.where(there_N, valence_N / radius_N.where(there_N, 1.0), 1.0).clamp(-1, 1).arccos()
    return radius_N, theta_N, torch.atan2(dominance_N, arousal_N)


def region_of(target_N3: Tensor, regions: Regions) -> Tensor:
    """Region of each label, int64 (N,); −1 where a dimension is unlabelled (NaN).

    Octants [code] are numbered I to VIII as 0 to 7: by the signs of (A', V'), counted as quadrants from (+, +) over (−,
    +) and (−, −) to (+, −), first with D' ≥ 0, then with D' < 0; zero counts as positive. The cells of a grid of angles
    are numbered row by row in θ and in each row by φ in [0°, 360°). How many there are is the paper's; the numbering
    and the place of the poles are [ours].
    """
    labelled_N = ~target_N3.isnan().any(1)
    if regions == "octants":
        valence_N, arousal_N, dominance_N = (_centred(target_N3) >= 0).long().unbind(1)
        # (A', V') = (+, +), (−, +), (−, −), (+, −) → 0, 1, 2, 3
        quadrant_N = torch.where(valence_N == 1, 1 - arousal_N, 2 + arousal_N)
        index_N = quadrant_N + 4 * (1 - dominance_N)
    else:
        _, theta_N, phi_N = spherical(target_N3.nan_to_num(0.5))
        columns = 360 // regions
        row_N = (theta_N.rad2deg() / regions + _NUDGE).floor().long()
        column_N = (phi_N.rad2deg().remainder(360) / regions + _NUDGE).floor().long() % columns
        index_N = (row_N * columns + column_N).clamp_max(region_count(regions) - 1)
    return torch.where(labelled_N, index_N, -1)


def _centred(target_N3: Tensor) -> Tensor:
    assert target_N3.shape[1] == len(DIMENSIONS)
    return 2 * target_N3.double() - 1
