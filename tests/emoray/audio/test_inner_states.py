"""Inner layers of a network as further outputs: the known output stays as it was, unknown names are refused."""

from __future__ import annotations

import numpy as np
import pytest

from emoray.audio import moonshine
from emoray.audio.inner_states import with_outputs

SOUND = moonshine.padded(np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1)


def run(network):
    return moonshine.session(network).run(
        None, {"input_values": SOUND, "attention_mask": np.ones(SOUND.shape, np.int64)}
    )


def test_inner_layers_are_given_and_the_last_one_stays_as_it_was():
    path = moonshine.model_folder() / moonshine.ENCODER
    (last,) = run(path)
    names = [moonshine.LAYER.format(layer) for layer in range(5)]
    again, *inner = run(with_outputs(path.read_bytes(), [moonshine.LAST, *names]))
    assert np.array_equal(again, last)
    assert [states.shape for states in inner] == [last.shape] * 5
    assert len({float(states.mean()) for states in [last, *inner]}) == 6


def test_a_value_that_the_network_does_not_compute_is_refused():
    network = (moonshine.model_folder() / moonshine.ENCODER).read_bytes()
    with pytest.raises(Exception, match="no_such_value"):
        moonshine.session(with_outputs(network, ["no_such_value"]))


def test_states_of_the_layers_stand_side_by_side_each_on_its_own_scale():
    states = moonshine.inner_states(SOUND)
    assert states.shape == (moonshine.encode(SOUND).shape[1], moonshine.INNER_WIDTH)
    for layer in np.split(states, len(moonshine.INNER_LAYERS), axis=1):
        assert layer.mean(axis=1) == pytest.approx(0, abs=1e-4)
        assert layer.std(axis=1) == pytest.approx(1, abs=1e-3)
