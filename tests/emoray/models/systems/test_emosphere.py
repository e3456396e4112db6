"""EmoSphere-SER against its formulas in numpy: regions, style pooling with its gradient, the two heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_kit import NO_DROPOUT, model_config, random_batch

from emoray.config import merge
from emoray.errors import ConfigError
from emoray.models.build import build
from emoray.models.pooling import StylePooling
from emoray.models.regions import region_count, region_of, spherical

NAN = float("nan")
#: (V, A, D) in [0, 1], and the octant by the paper's table of signs of (A, V, D).
OCTANTS = {
    "I": (0.9, 0.8, 0.7),
    "II": (0.9, 0.2, 0.7),
    "III": (0.1, 0.2, 0.7),
    "IV": (0.1, 0.8, 0.7),
    "V": (0.9, 0.8, 0.3),
    "VI": (0.9, 0.2, 0.3),
    "VII": (0.1, 0.2, 0.3),
    "VIII": (0.1, 0.8, 0.3),
}


def label(valence: float, arousal: float, dominance: float) -> torch.Tensor:
    """A label from centred coordinates in [−1, 1]."""
    return torch.tensor([[(1 + valence) / 2, (1 + arousal) / 2, (1 + dominance) / 2]], dtype=torch.float64)


def at(theta: float, phi: float, radius: float = 0.8) -> torch.Tensor:
    """A label from its angles in degrees: V' = r cos θ, A' = r sin θ cos φ, D' = r sin θ sin φ."""
    t, p = np.deg2rad(theta), np.deg2rad(phi)
    return label(radius * np.cos(t), radius * np.sin(t) * np.cos(p), radius * np.sin(t) * np.sin(p))


def test_octants_are_numbered_as_in_the_paper():
    found = region_of(torch.tensor(list(OCTANTS.values())), "octants")
    assert found.tolist() == list(range(8))


def test_zero_counts_as_positive_in_an_octant():
    assert region_of(torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.4, 0.5]]), "octants").tolist() == [0, 1]
    # 4 on a scale from 1 to 7 is the middle, in float32 too
    assert region_of(torch.full((1, 3), (4 - 1) / (7 - 1)), "octants").tolist() == [0]


def test_an_unlabelled_clip_has_no_region():
    target = torch.tensor([[0.9, NAN, 0.9], [NAN, NAN, NAN], [0.9, 0.9, 0.9]])
    for regions in ("octants", 30):
        assert (region_of(target, regions) == -1).tolist() == [True, True, False]


def test_the_grids_have_the_papers_numbers_of_cells():
    assert {regions: region_count(regions) for regions in ("octants", 30, 45, 60, 180)} == {
        "octants": 8, 30: 73, 45: 33, 60: 19, 180: 4,
    }  # fmt: skip


def test_spherical_coordinates_come_back_from_angles():
    for theta, phi in ((10.0, 20.0), (90.0, -135.0), (170.0, 100.0)):
        radius, found_theta, found_phi = (float(value) for value in spherical(at(theta, phi)))
        assert (radius, np.rad2deg(found_theta), np.rad2deg(found_phi)) == pytest.approx((0.8, theta, phi), abs=1e-6)
    centre = [float(value) for value in spherical(torch.full((1, 3), 0.5))]
    assert centre == [0, 0, 0]


@pytest.mark.parametrize("step", [30, 45, 60, 180])
def test_cells_go_row_by_row(step):
    columns = 360 // step
    for row in range(180 // step):
        for column in range(columns):
            inside = at((row + 0.5) * step, (column + 0.5) * step)
            assert region_of(inside, step).tolist() == [row * columns + column]
    south = at(180.0, 0.0)
    assert region_of(south, step).tolist() == [180 // step * columns]
    assert region_of(torch.full((1, 3), 0.5), step).tolist() == [0]  # the centre has θ = φ = 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_every_label_lies_in_a_region_whose_bounds_hold_its_angles(values):
    target = torch.tensor([values])
    valence, arousal, dominance = (2 * np.float64(np.float32(value)) - 1 for value in values)
    radius = np.sqrt(valence**2 + arousal**2 + dominance**2)
    theta = np.rad2deg(np.arccos(valence / radius)) if radius else 0.0
    phi = np.rad2deg(np.arctan2(dominance, arousal)) % 360 if radius else 0.0
    for step in (30, 45, 60):
        cell = int(region_of(target, step))
        assert 0 <= cell < region_count(step)
        row, column = divmod(cell, 360 // step)
        assert row * step - 1e-3 <= theta <= (row + 1) * step + 1e-3
        at_a_pole = theta < 1e-3 or theta > 180 - 1e-3
        around = abs((phi - (column + 0.5) * step + 180) % 360 - 180)
        assert at_a_pole or around <= step / 2 + 1e-3
    octant = int(region_of(target, "octants"))
    signs = (arousal >= 0, valence >= 0, dominance >= 0)
    table = [(a, v, d) for d in (True, False) for a, v in ((True, True), (False, True), (False, False), (True, False))]
    assert table[octant] == signs


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def pooled(frames_TD: np.ndarray, weights: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """Style pooling of one unpadded clip."""

    def linear(hidden: np.ndarray, name: str) -> np.ndarray:
        return hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    hidden = frames_TD
    for layer in ("frames.0", "frames.3"):
        hidden = linear(hidden, layer)
        hidden = hidden * np.tanh(softplus(hidden))  # Mish
    frames, width = hidden.shape
    for layer in range(2):
        kernel, bias = weights[f"convolutions.{layer}.weight"], weights[f"convolutions.{layer}.bias"]
        padded = np.pad(hidden, ((kernel.shape[2] // 2,) * 2, (0, 0)))
        convolved = np.stack(
            [np.einsum("kd,odk->o", padded[t : t + kernel.shape[2]], kernel) + bias for t in range(frames)]
        )
        hidden = hidden + convolved[:, :width] / (1 + np.exp(-convolved[:, width:]))
    query, key, value = (linear(hidden, name) for name in ("query", "key", "value"))
    mixed = []
    for head in np.split(np.arange(width), heads):
        score = query[:, head] @ key[:, head].T / np.sqrt(width)
        weight = np.exp(score - score.max(1, keepdims=True))
        mixed.append(weight / weight.sum(1, keepdims=True) @ value[:, head])
    hidden = hidden + linear(np.concatenate(mixed, axis=1), "mix")
    return linear(hidden, "project").mean(0)


def style_pooling() -> tuple[StylePooling, torch.Tensor, torch.Tensor]:
    """A block in double precision, and two clips of 9 and 6 frames."""
    torch.manual_seed(5)
    pool = StylePooling(inputs=6, width=8, kernel=5, heads=2, dropout=0.1).double().eval()
    return pool, torch.randn(2, 9, 6, dtype=torch.float64), torch.arange(9)[None] < torch.tensor([[9], [6]])


def test_style_pooling_follows_the_formulas():
    pool, hidden, mask = style_pooling()
    weights = {name: value.detach().numpy() for name, value in pool.state_dict().items()}
    found = pool(hidden.masked_fill(~mask.unsqueeze(-1), 1e3), mask).detach().numpy()
    np.testing.assert_allclose(found[0], pooled(hidden[0].numpy(), weights, 2), atol=1e-10)
    np.testing.assert_allclose(found[1], pooled(hidden[1, :6].numpy(), weights, 2), atol=1e-10)


def test_the_gradient_of_style_pooling_is_that_of_the_formulas():
    pool, hidden, mask = style_pooling()
    slope = torch.randn(8, dtype=torch.float64)
    (pool(hidden, mask)[1] @ slope).backward()
    weights = {name: value.detach().numpy().copy() for name, value in pool.state_dict().items()}
    clip, random = hidden[1, :6].numpy(), np.random.default_rng(0)
    for name, parameter in pool.named_parameters():
        place = tuple(int(random.integers(size)) for size in parameter.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = weights[name].copy()
            moved[place] += step
            ends.append(pooled(clip, {**weights, name: moved}, 2) @ slope.numpy())
        expected = (ends[0] - ends[1]) / 2e-6
        assert parameter.grad[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-8), name
    # Moving all keys alike changes no softmax; every other weight counts.
    still = {name for name, parameter in pool.named_parameters() if not bool(parameter.grad.abs().max() > 1e-9)}
    assert still == {"key.bias"}


def test_dropout_reaches_every_part_of_style_pooling():
    """Each module of dropout alone changes the output, and so does that of the attention's weights."""
    pool, hidden, mask = style_pooling()
    still = pool(hidden, mask)
    moved = 0
    for part in (pool.frames[2], pool.frames[5], pool.dropout):
        part.train()
        moved += not torch.equal(pool(hidden, mask), still)
        part.eval()
    pool.training = True  # of the block itself, not of its parts: the attention's weights
    moved += not torch.equal(pool(hidden, mask), still)
    assert moved == 4


def test_both_heads_follow_the_formula():
    torch.manual_seed(0)
    model = build(model_config(**merge(NO_DROPOUT, {"name": "emosphere", "emosphere": {"regions": 60}}))).eval()
    batch = random_batch(3, 12)
    with torch.inference_mode():
        output = model(batch)
        vector = model.pool(*model.encoder(batch.features_BTF, batch.lengths_B)).numpy()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    assert output.regions_BR.shape == (3, 19)
    assert output.logits_BC is None
    for name, found in (("dimensions", output.prediction_B3), ("regions", output.regions_BR)):
        hidden = vector @ weights[f"{name}.1.weight"].T + weights[f"{name}.1.bias"]
        hidden = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
        hidden = np.maximum(hidden * weights[f"{name}.2.weight"] + weights[f"{name}.2.bias"], 0)
        expected = hidden @ weights[f"{name}.5.weight"].T + weights[f"{name}.5.bias"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"), [({"kernel": 4}, r"model\.emosphere\.kernel"), ({"heads": 3}, r"model\.emosphere\.heads")]
)
def test_options_of_style_pooling_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        build(model_config(name="emosphere", emosphere=changes))
