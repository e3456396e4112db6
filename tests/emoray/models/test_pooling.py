from __future__ import annotations

import numpy as np
import pytest
import torch

from emoray.models.pooling import AttentiveStatistics, masked_mean


def test_masked_mean_ignores_padding():
    hidden = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [100.0, 100.0]]])
    assert masked_mean(hidden, torch.tensor([[True, True, False]])).tolist() == [[2.0, 20.0]]


def statistics(frames: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Mean and deviation under attention, by the formulas, in float64; frames is (T, width)."""
    score = np.tanh(frames @ weights["project.weight"].T + weights["project.bias"]) @ weights["score.weight"][0]
    weight = np.exp(score) / np.exp(score).sum()
    mean = weight @ frames
    return np.concatenate([mean, np.sqrt(weight @ frames**2 - mean**2)])


def test_attentive_statistics_and_their_gradient_follow_the_formula():
    torch.manual_seed(0)
    pool = AttentiveStatistics(width=5, attention=4)
    hidden = torch.randn(1, 7, 5, requires_grad=True)
    slope = torch.randn(10)
    got = pool(hidden, torch.arange(7)[None] < 6)[0]
    (got @ slope).backward()

    frames = hidden.detach()[0, :6].double().numpy()
    weights = {name: parameter.detach().double().numpy() for name, parameter in pool.named_parameters()}
    np.testing.assert_allclose(got.detach(), statistics(frames, weights), atol=1e-5)

    assert hidden.grad is not None
    assert not hidden.grad[0, 6].any()  # padding
    gradients = {name: parameter.grad for name, parameter in pool.named_parameters()} | {"frames": hidden.grad[0, :6]}
    inputs = weights | {"frames": frames}
    for name, gradient in gradients.items():
        assert gradient is not None
        assert gradient.abs().max() > 1e-2, name
        for place in np.ndindex(inputs[name].shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = {key: array.copy() for key, array in inputs.items()}
                moved[name][place] += step
                ends.append(statistics(moved["frames"], moved) @ slope.double().numpy())
            expected = (ends[0] - ends[1]) / 2e-6
            assert gradient[place].item() == pytest.approx(expected, rel=1e-3, abs=1e-5), (name, place)


def test_attentive_statistics_of_one_frame_have_a_finite_gradient():
    pool = AttentiveStatistics(width=3, attention=4)
    hidden = torch.randn(2, 1, 3, requires_grad=True)
    pool(hidden, torch.ones(2, 1, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(hidden.grad).all()
