"""How far a clip's delivery lies from what its speaker usually does: in standard deviations, by measure.

Cues put these numbers into words; `embed_semantics` can hand them to the model as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emoray.stages.norms import Expectation
from emoray.stages.prosodic_features import MEASURES, Measures

#: Numbers in a `deviation_vector`: a deviation and a flag per measure.
DEVIATION_WIDTH = 2 * len(MEASURES)

#: A vector's deviations end here: a measure that hardly varies in the corpus must not outweigh all others.
LARGEST_SD = 4.0


def deviations(measures: Measures, expected: Expectation) -> Measures:
    """How far each measure lies from what was expected, in standard deviations, in the order of `MEASURES`."""
    return {
        name: (measures[name] - expected.mean[name]) / expected.sd[name]
        for name in MEASURES
        if name in measures and name in expected.mean
    }


def deviation_vector(away: Mapping[str, float]) -> np.ndarray:
    """Deviations, as `deviations` gives them, as a vector.

    Returns:
        float32 (DEVIATION_WIDTH,): the deviations in the order of `MEASURES`, within ±`LARGEST_SD` and 0 where there is
        none, then 1 for each measure that there is and 0 for the others.
    """
    present = [float(name in away) for name in MEASURES]
    values = np.clip([away.get(name, 0.0) for name in MEASURES], -LARGEST_SD, LARGEST_SD)
    return np.concatenate([values, present]).astype(np.float32)
