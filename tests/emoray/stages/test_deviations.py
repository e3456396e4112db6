"""Deviations against norms worked out by hand, as numbers for cues and as a vector for models."""

from __future__ import annotations

import numpy as np

from emoray.stages.deviations import DEVIATION_WIDTH, LARGEST_SD, deviation_vector, deviations
from emoray.stages.norms import Expectation
from emoray.stages.prosodic_features import MEASURES


def test_deviations_are_against_what_was_expected():
    expected = Expectation({"pitch_st": 10.0, "rate_hz": 12.0}, {"pitch_st": 2.0, "rate_hz": 4.0}, clips=3)
    assert deviations({"pitch_st": 7.0, "rate_hz": 14.0, "level_db": -20.0}, expected) == {
        "pitch_st": -1.5,
        "rate_hz": 0.5,
    }


def test_a_vector_holds_every_measure_in_order_and_which_of_them_there_are():
    names = list(MEASURES)
    vector = deviation_vector({names[0]: -1.5, names[2]: 99.0, names[5]: 0.0})
    assert vector.shape == (DEVIATION_WIDTH,)
    assert vector.dtype == np.float32
    assert vector[: len(names)].tolist() == [-1.5, 0, LARGEST_SD, *[0] * (len(names) - 3)]
    assert np.flatnonzero(vector[len(names) :]).tolist() == [0, 2, 5]  # a measure that is as expected is there, too
    assert not deviation_vector({}).any()
