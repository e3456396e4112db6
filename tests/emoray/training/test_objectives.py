from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional import concordance_corrcoef

from emoray.training.objectives import category_loss, ccc, ccc_loss, class_weights, load_balance

NAN = float("nan")


def test_ccc_by_hand():
    # means 2 and 3, population variances 2/3 and 8/3, covariance 4/3: 2 · 4/3 / (10/3 + 1) = 8/13
    assert ccc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 5.0])).item() == pytest.approx(8 / 13, abs=1e-6)


def test_ccc_equals_the_formula_with_population_variances_in_numpy():
    random = np.random.default_rng(0)
    y = random.uniform(size=50)
    p = 0.3 + 0.5 * y + random.normal(scale=0.1, size=50)
    rho = np.corrcoef(p, y)[0, 1]
    expected = 2 * rho * p.std() * y.std() / (p.var() + y.var() + (p.mean() - y.mean()) ** 2)
    assert ccc(torch.tensor(p), torch.tensor(y)).item() == pytest.approx(expected, abs=1e-6)


def test_torchmetrics_divides_by_n_minus_1_and_we_do_not():
    p, y = torch.tensor([0.1, 0.5, 0.9, 0.4]), torch.tensor([0.3, 0.6, 0.7, 0.9])
    cov = ((p - p.mean()) * (y - y.mean())).sum()
    spread = ((p - p.mean()) ** 2).sum() + ((y - y.mean()) ** 2).sum()
    bias = (p.mean() - y.mean()) ** 2
    assert ccc(p, y).item() == pytest.approx((2 * cov / 4 / (spread / 4 + bias)).item(), abs=1e-6)
    assert concordance_corrcoef(p, y).item() == pytest.approx((2 * cov / 3 / (spread / 3 + bias)).item(), abs=1e-6)
    assert abs(ccc(p, y).item() - concordance_corrcoef(p, y).item()) > 1e-3


def test_a_constant_prediction_has_ccc_0_and_a_finite_gradient():
    p = torch.full((5,), 0.5, requires_grad=True)
    value = ccc(p, torch.rand(5))
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(p.grad).all()


def test_unlabelled_dimensions_do_not_count():
    target = torch.tensor([[0.1, NAN, 0.2], [0.5, NAN, 0.9], [NAN, 0.4, 0.4]])
    prediction = torch.rand(3, 3, requires_grad=True)
    loss = ccc_loss(prediction, target)
    expected = (1 - ccc(prediction[:2, 0], target[:2, 0])) + (1 - ccc(prediction[:, 2], target[:, 2]))
    torch.testing.assert_close(loss, expected)  # arousal has one label: no CCC
    loss.backward()
    assert prediction.grad[2, 0] == 0
    assert (prediction.grad[:, 1] == 0).all()


def test_class_weights_give_each_class_the_same_say():
    label = torch.tensor([0, 0, 0, 2, -1])
    weight = class_weights(label, 3)
    assert weight.tolist() == pytest.approx([4 / 9, 0, 4 / 3])
    logits = torch.tensor([[2.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1], [9, 9, 9]])
    each = -torch.log_softmax(logits, -1)[torch.arange(4), label[:4]]
    expected = (each[:3].mean() + each[3]) / 2
    torch.testing.assert_close(category_loss(logits, label, weight), expected)
    assert category_loss(logits, torch.full((5,), -1), weight) == 0


def test_load_balance_is_1_when_even_and_e_when_collapsed():
    even = torch.eye(4).repeat(2, 1)[:, None].expand(-1, 3, -1)
    assert load_balance(torch.full((8, 3, 4), 0.25), even).item() == pytest.approx(1)
    collapsed = torch.zeros(8, 3, 4)
    collapsed[..., 1] = 1
    assert load_balance(collapsed, collapsed).item() == pytest.approx(4)
    dense = torch.full((8, 3, 4), 0.1)
    dense[..., 2] = 0.7  # dense routing counts the largest weight: 4 · .7
    assert load_balance(dense, dense).item() == pytest.approx(2.8)
