from __future__ import annotations

import numpy as np
import torch

from emoray.models.pooling import AttentiveStatistics, masked_mean


def test_masked_mean_ignores_padding():
    hidden = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [100.0, 100.0]]])
    assert masked_mean(hidden, torch.tensor([[True, True, False]])).tolist() == [[2.0, 20.0]]


def test_attentive_statistics_follow_the_formula():
    torch.manual_seed(0)
    pool = AttentiveStatistics(width=5, attention=4)
    hidden = torch.randn(1, 7, 5)
    mask = torch.arange(7)[None] < 6
    got = pool(hidden, mask)[0].detach().numpy()

    frames = hidden[0, :6].numpy()
    project, bias = pool.project.weight.detach().numpy(), pool.project.bias.detach().numpy()
    score = np.tanh(frames @ project.T + bias) @ pool.score.weight.detach().numpy()[0]
    weight = np.exp(score) / np.exp(score).sum()
    mean = (weight[:, None] * frames).sum(0)
    deviation = np.sqrt((weight[:, None] * frames**2).sum(0) - mean**2)
    np.testing.assert_allclose(got, np.concatenate([mean, deviation]), atol=1e-5)


def test_attentive_statistics_of_one_frame_have_a_finite_gradient():
    pool = AttentiveStatistics(width=3, attention=4)
    hidden = torch.randn(2, 1, 3, requires_grad=True)
    pool(hidden, torch.ones(2, 1, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(hidden.grad).all()
