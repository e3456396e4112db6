"""CNN14, its conditioning by text and late fusion, against the formulas written out in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from training_kit import CNN14_MELS, NO_DROPOUT, TEXT_WIDTH, model_config, random_batch

from emoray.config import merge
from emoray.errors import ConfigError
from emoray.models.batch import Batch
from emoray.models.build import build, frontend
from emoray.models.cnn14_encoder import ConvBlock, MaskedBatchNorm
from emoray.models.pooling import max_mean

CNN14 = {"kind": "cnn14"}
TEXT = ["les", "gs"]


def built(name: str, **changes: object) -> torch.nn.Module:
    """A model in double precision and evaluation mode, with running statistics that are not the initial ones."""
    torch.manual_seed(3)
    config = merge({"name": name, "granularities": TEXT, "encoder": CNN14}, changes)
    model = build(model_config(**merge(NO_DROPOUT, config)))
    for part in model.modules():
        if isinstance(part, MaskedBatchNorm):
            part.mean_C.normal_(std=0.1)
            part.variance_C.uniform_(0.2, 0.4)
            torch.nn.init.normal_(part.bias_C, std=0.2)
    for key, parameter in model.named_parameters():
        if key.startswith("condition") and key.endswith("bias"):
            torch.nn.init.constant_(parameter, 0.8)  # a ReLU closed all over would hide its gradient
    return model.double().eval()


def one_clip(frames: int = 70, seed: int = 0) -> Batch:
    """One clip in double precision, with LES but no GS."""
    batch = random_batch(1, CNN14_MELS, seed=seed, frames=(frames, frames + 1))
    present = torch.tensor([[True, False, True]])
    return Batch(
        **{
            **vars(batch),
            "features_BTF": batch.features_BTF.double(),
            "text_BKE": torch.randn(1, 3, TEXT_WIDTH, dtype=torch.float64) * present.unsqueeze(-1),
            "present_BK": present,
        }
    )


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def normalised(hidden_CTF: np.ndarray, weights: dict[str, np.ndarray], prefix: str) -> np.ndarray:
    mean, variance, scale, shift = (
        weights[f"{prefix}.{name}"][:, None, None] for name in ("mean_C", "variance_C", "weight_C", "bias_C")
    )
    return (hidden_CTF - mean) / np.sqrt(variance + 1e-5) * scale + shift


def cnn14(features_TF: np.ndarray, weights: dict[str, np.ndarray], shifts: list[np.ndarray] | None) -> np.ndarray:
    """Embedding max_t + mean_t of one clip."""
    frames = len(features_TF)
    padded = np.zeros((-(-frames // 32) * 32, features_TF.shape[1]))
    padded[:frames] = normalised(features_TF.T[:, :, None], weights, "encoder.norm")[:, :, 0].T
    hidden = padded[None]
    for block in range(6):
        for layer in range(2):
            kernel = weights[f"encoder.blocks.{block}.convolutions.{layer}.weight"]
            around = np.lib.stride_tricks.sliding_window_view(np.pad(hidden, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
            hidden = np.einsum("itfkl,oikl->otf", around, kernel)
            hidden = np.maximum(normalised(hidden, weights, f"encoder.blocks.{block}.norms.{layer}"), 0)
            hidden[:, frames:] = 0
        if block < 5:
            channels, high, wide = hidden.shape
            hidden = hidden.reshape(channels, high // 2, 2, wide // 2, 2).mean((2, 4))
            frames = -(-frames // 2)
        if shifts is not None:
            hidden = hidden + shifts[block][:, None, None]
            hidden[:, frames:] = 0
    states = hidden[:, :frames].mean(2)
    return states.max(1) + states.mean(1)


def linear(vector: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]


def text_vector(batch: Batch, weights: dict[str, np.ndarray], prefix: str = "text") -> np.ndarray:
    """LES as it is, the learned vector for GS."""
    return np.concatenate([batch.text_BKE[0, 0].numpy(), weights[f"{prefix}.absent_KE"][1]])


def by_head(vector: np.ndarray, weights: dict[str, np.ndarray], output: str = "output") -> np.ndarray:
    return linear(np.maximum(linear(vector, weights, "head.hidden.0"), 0), weights, f"head.{output}")


def expected(name: str, batch: Batch, weights: dict[str, np.ndarray], output: str = "output") -> np.ndarray:
    """The model's output by the formulas of its paper."""
    features = batch.features_BTF[0].numpy()
    if name == "cnn14":
        return by_head(cnn14(features, weights, None), weights, output)
    text = text_vector(batch, weights)
    if name == "single_stage":
        shift = np.maximum(linear(text, weights, "condition"), 0)
        return by_head(cnn14(features, weights, None) + shift, weights, output)
    shifts = [np.maximum(linear(text, weights, f"conditions.{block}"), 0) for block in range(6)]
    return by_head(cnn14(features, weights, shifts), weights, output)


def slope(function: Callable[[], float], array: np.ndarray, place: tuple[int, ...], step: float = 1e-6) -> float:
    """Derivative by central differences."""
    before = array[place]
    array[place] = before + step
    up = function()
    array[place] = before - step
    down = function()
    array[place] = before
    return (up - down) / (2 * step)


@pytest.mark.parametrize("name", ["cnn14", "single_stage", "multistage"])
def test_the_forward_pass_follows_the_formulas(name):
    model, batch = built(name, classes=["a", "b"]), one_clip()
    weights = weights_of(model)
    with torch.inference_mode():
        output = model(batch)
    np.testing.assert_allclose(output.prediction_B3[0], expected(name, batch, weights), atol=1e-9)
    np.testing.assert_allclose(output.logits_BC[0], expected(name, batch, weights, "classify.output"), atol=1e-9)


@pytest.mark.parametrize("name", ["single_stage", "multistage"])
def test_the_gradient_of_the_conditioning_is_that_of_the_formulas(name):
    model, batch = built(name), one_clip()
    target, weights = np.array([0.1, 0.9, 0.4]), weights_of(model)
    loss = (model(batch).prediction_B3[0] - torch.from_numpy(target)).square().sum()
    loss.backward()
    gradients = {key: parameter.grad.numpy() for key, parameter in model.named_parameters()}

    def loss_by_numpy() -> float:
        return float(((expected(name, batch, weights) - target) ** 2).sum())

    assert loss_by_numpy() == pytest.approx(loss.item(), abs=1e-9)
    conditions = ["condition"] if name == "single_stage" else [f"conditions.{block}" for block in (0, 2, 5)]
    for key in [f"{condition}.weight" for condition in conditions] + ["text.absent_KE"]:
        # The entries that matter most: a ReLU closes others.
        places = np.argsort(-np.abs(gradients[key]), axis=None)[:3]
        found = []
        for place in places:
            index = np.unravel_index(place, gradients[key].shape)
            found.append(slope(loss_by_numpy, weights[key], index))
            assert found[-1] == pytest.approx(gradients[key][index], rel=1e-4, abs=1e-9), key
        assert any(abs(value) > 1e-6 for value in found), key


def test_late_fusion_is_the_mean_of_its_branches_and_the_sounds_alone_without_text():
    model = built("late_fusion", classes=["a", "b", "c"])
    there, gone = one_clip(), one_clip().at_level("audio")
    with torch.inference_mode():
        output, bare, audio, text = model(there), model(gone), model.audio(there), model.text(there)
    weights = weights_of(model)
    hidden = linear(text_vector(there, weights, "text.text"), weights, "text.head.hidden.0")
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    hidden = np.maximum(hidden * weights["text.head.hidden.1.weight"] + weights["text.head.hidden.1.bias"], 0)
    by_text = linear(hidden, weights, "text.head.output")
    own = {key.removeprefix("audio."): value for key, value in weights.items()}
    by_sound = expected("cnn14", there, own)
    np.testing.assert_allclose(output.prediction_B3[0], (by_sound + by_text) / 2, atol=1e-9)
    np.testing.assert_allclose(output.branches_BM3[0], [by_sound, by_text], atol=1e-9)
    probabilities = (audio.logits_BC.softmax(-1) + text.logits_BC.softmax(-1)) / 2
    torch.testing.assert_close(output.logits_BC.softmax(-1), probabilities, atol=1e-6, rtol=0)
    np.testing.assert_allclose(bare.prediction_B3[0], by_sound, atol=1e-9)
    torch.testing.assert_close(bare.logits_BC.softmax(-1), audio.logits_BC.softmax(-1), atol=1e-6, rtol=0)


def test_late_fusion_shares_no_weight_and_takes_the_encoders_own_model_for_the_sound():
    model = build(model_config(name="late_fusion", classes=["a", "b"]))
    assert type(model.audio).__name__ == "Acoustic"
    shared = {id(one) for one in model.audio.parameters()} & {id(one) for one in model.text.parameters()}
    assert not shared
    assert sum(1 for _ in model.parameters()) == sum(len(list(part.parameters())) for part in (model.audio, model.text))


def test_batch_normalisation_in_training_sees_valid_frames_only():
    norm = MaskedBatchNorm(3).train()
    lengths, hidden = (5, 2), torch.randn(2, 3, 5, 4)
    mask = torch.arange(5)[None] < torch.tensor(lengths)[:, None]
    valid = np.concatenate([hidden[b, :, :length].numpy().reshape(3, -1) for b, length in enumerate(lengths)], axis=1)
    mean, variance = valid.mean(1), valid.var(1)
    dirty = hidden.masked_fill(~mask[:, None, :, None], 1e3)
    result = norm(dirty, mask)
    first = (hidden[0].numpy() - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    np.testing.assert_allclose(result[0].detach(), first, atol=1e-5)
    np.testing.assert_allclose(norm.mean_C, 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(norm.variance_C, 0.9 + 0.1 * valid.var(1, ddof=1), atol=1e-6)


def test_batch_normalisation_equals_torchs_where_nothing_is_padded():
    ours, theirs = MaskedBatchNorm(3).train(), torch.nn.BatchNorm2d(3).train()
    mask = torch.ones(2, 5, dtype=torch.bool)
    for seed in range(3):
        torch.manual_seed(seed)
        hidden = torch.randn(2, 3, 5, 4)
        one, other = (hidden.clone().requires_grad_() for _ in range(2))
        slopes = torch.randn_like(hidden)
        torch.testing.assert_close(ours(one, mask), theirs(other), atol=1e-5, rtol=0)
        ours(one, mask).backward(slopes)
        theirs(other).backward(slopes)
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.mean_C, theirs.running_mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.variance_C, theirs.running_var, atol=1e-6, rtol=0)


def test_a_pass_without_gradient_leaves_the_running_statistics_alone():
    """The Learner runs accumulated micro-batches twice: once without gradient."""
    norm = MaskedBatchNorm(3).train()
    with torch.no_grad():
        norm(torch.randn(2, 3, 5, 4) + 5, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(norm.mean_C, torch.zeros(3))


def test_a_block_masks_after_each_convolution():
    block = ConvBlock(1, 2).eval()
    for norm in block.norms:
        torch.nn.init.constant_(norm.bias_C, 1.0)
    mask = torch.tensor([[True, True, False, False]])
    hidden = torch.randn(1, 1, 4, 8).masked_fill(~mask[:, None, :, None], 0)
    together = block(hidden, mask)
    assert (together[:, :, 2:] == 0).all()
    torch.testing.assert_close(together[:, :, :2], block(hidden[:, :, :2], mask[:, :2]))


def test_max_mean_ignores_padding():
    hidden = torch.tensor([[[-1.0, 4.0], [-3.0, 0.0], [9.0, 9.0]]])
    assert max_mean(hidden, torch.tensor([[True, True, False]])).tolist() == [[-1.0 - 2.0, 4.0 + 2.0]]


def test_the_width_scales_the_published_channels():
    assert build(model_config(name="cnn14", encoder={**CNN14, "cnn14": {"width": 1 / 16}})).encoder.channels == (
        4, 8, 16, 32, 64, 128,
    )  # fmt: skip


def test_the_front_end_is_the_papers():
    front = frontend(model_config(encoder={**CNN14, "cnn14": {"mels": 64}}).encoder)
    assert (front.width, front.frame_hz) == (64, 100)
    options = front.options()
    assert (options["window_s"] * 16_000, options["low_hz"], options["high_hz"]) == (512, 50, 8000)


@pytest.mark.parametrize("name", ["cnn14", "multistage", "single_stage"])
def test_another_encoder_is_a_configuration_error(name):
    with pytest.raises(ConfigError, match=r"model\.encoder.kind=cnn14"):
        build(model_config(name=name))


def test_too_few_mels_are_a_configuration_error():
    with pytest.raises(ConfigError, match=r"model\.encoder\.cnn14\.mels: .*32"):
        build(model_config(name="cnn14", encoder={**CNN14, "cnn14": {"mels": 16}}))


@pytest.mark.parametrize("name", ["multistage", "single_stage", "late_fusion", "text"])
def test_no_text_left_is_a_configuration_error(name):
    with pytest.raises(ConfigError, match=r"model\.granularities"):
        build(model_config(name=name, granularities=[], encoder=CNN14))
