"""The model of the perspective loss against its formulas, in numpy: one dialogue at a time, without padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_kit import NO_DROPOUT, model_config, random_batch

from emoray.config import merge
from emoray.errors import ConfigError
from emoray.models.batch import Batch
from emoray.models.build import build

CLASSES = ["a", "b", "c"]
PLACES, OPERATORS = ("late", "hidden", "early"), ("add", "concat", "attention")
#: Three dialogues of 4, 3 and 2 turns, mixed; turns ascend as their numbers do, with gaps.
DIALOGUES = torch.tensor([7, 2, 7, 5, 2, 7, 5, 7, 2])
TURNS = torch.tensor([30, 4, 10, 1, 2, 20, 0, 40, 9])


def config_of(**changes):
    return model_config(**merge(NO_DROPOUT, {"name": "perspective", "classes": CLASSES, **changes}))


def made(place: str = "late", operator: str = "add", sound: str = "statistics", heads: int = 4, **changes):
    torch.manual_seed(5)
    own = {"fusion": place, "operator": operator, "sound": sound, "heads": heads}
    return build(config_of(perspective=own, **changes)).eval()


def talk(seed: int = 0) -> Batch:
    return replace(random_batch(9, 12, seed), dialogue_B=DIALOGUES, turn_B=TURNS)


# --- the formulas


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Weights:
    """A model's weights by name, as float64."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._state = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._state[name]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self[f"{name}.weight"].T + self._state.get(f"{name}.bias", 0.0)

    def gru(self, name: str, x: np.ndarray, end: str) -> np.ndarray:
        """r, z = σ(W x + b + U h + c); n = tanh(W x + b + r (U h + c)); h' = (1 − z) n + z h."""
        w, u, b, c = (
            self[f"{name}.{part}{end}"] for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        )
        width = u.shape[1]
        hidden, states = np.zeros(width), []
        for one in x:
            given, kept = w @ one + b, u @ hidden + c
            r, z = (sigmoid(given[k * width : (k + 1) * width] + kept[k * width : (k + 1) * width]) for k in (0, 1))
            n = np.tanh(given[2 * width :] + r * kept[2 * width :])
            hidden = (1 - z) * n + z * hidden
            states.append(hidden)
        return np.array(states)

    def context(self, name: str, x: np.ndarray, heads: int) -> np.ndarray:
        """One dialogue (U, D): both directions, softmax(q kᵀ / sqrt(width)) v per head, ReLU(W ·)."""
        states = np.concatenate([self.gru(f"{name}.gru", x, ""), self.gru(f"{name}.gru", x[::-1], "_reverse")[::-1]], 1)
        mixed = states @ self[f"{name}.attention.in_proj_weight"].T + self[f"{name}.attention.in_proj_bias"]
        q, k, v = np.split(mixed, 3, axis=1)
        width = q.shape[1] // heads
        parts = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            parts.append(softmax(q[:, own] @ k[:, own].T / np.sqrt(width)) @ v[:, own])
        return np.maximum(
            self.linear(f"{name}.hidden.0", self.linear(f"{name}.attention.out_proj", np.hstack(parts))), 0
        )

    def fuse(self, name: str, operator: str, audio: np.ndarray, text: np.ndarray) -> np.ndarray:
        if operator == "add":
            return audio + text
        if operator == "concat":
            return self.linear(f"{name}.mix", np.hstack([audio, text]))
        both = np.stack([audio, text], 1)
        share = softmax(self.linear(f"{name}.weigh", np.tanh(self.linear(f"{name}.look", both)))[..., 0])
        return share[:, :1] * audio + share[:, 1:] * text


def expected(model: torch.nn.Module, batch: Batch, place: str, operator: str) -> dict[str, np.ndarray]:
    w = Weights(model)
    outputs = {
        "scores": np.zeros((9, 3)),
        "logits": np.zeros((9, 3)),
        "audio": np.zeros((9, 3)),
        "text": np.zeros((9, 3)),
    }
    for dialogue in (2, 5, 7):
        clips = np.flatnonzero(batch.dialogue_B.numpy() == dialogue)
        clips = clips[np.argsort(batch.turn_B.numpy()[clips])]
        heard = [batch.features_BTF[clip, : batch.lengths_B[clip]].double().numpy() for clip in clips]
        sound = np.array([np.concatenate([one.mean(0), one.std(0)]) for one in heard])
        there = batch.present_BK[clips].numpy()[..., None]
        text = np.where(there, batch.text_BKE[clips].double().numpy(), w["text.absent_KE"]).reshape(len(clips), -1)
        x_a, x_t = w.linear("sound.project", sound), w.linear("project_text", text)
        h_a, h_t = w.context("context_audio", x_a, 4), w.context("context_text", x_t, 4)
        l_a, l_t = w.linear("classify_audio.output", h_a), w.linear("classify_text.output", h_t)
        outputs["audio"][clips], outputs["text"][clips] = l_a, l_t
        if place == "late":
            v_a, v_t = w.linear("score_audio", h_a), w.linear("score_text", h_t)
            outputs["logits"][clips] = w.fuse("fuse_logits", operator, l_a, l_t)
            outputs["scores"][clips] = 0.5 + w.fuse("fuse_scores", operator, v_a, v_t)
            continue
        hidden = (
            w.fuse("fuse", operator, h_a, h_t)
            if place == "hidden"
            else w.context("context_fused", w.fuse("fuse", operator, x_a, x_t), 4)
        )
        outputs["logits"][clips] = w.linear("classify.output", hidden)
        outputs["scores"][clips] = 0.5 + w.linear("score", hidden)
    return outputs


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("place", PLACES)
def test_every_fusion_follows_the_formulas(place, operator):
    model, batch = made(place, operator), talk()
    with torch.no_grad():
        model.text.absent_KE.normal_()
        output = model(batch)
    wanted = expected(model, batch, place, operator)
    np.testing.assert_allclose(output.prediction_B3, wanted["scores"], atol=1e-5)
    np.testing.assert_allclose(output.logits_BC, wanted["logits"], atol=1e-5)
    np.testing.assert_allclose(output.modality_logits_BMC[:, 0], wanted["audio"], atol=1e-5)
    np.testing.assert_allclose(output.modality_logits_BMC[:, 1], wanted["text"], atol=1e-5)


# --- dialogues


def every_output(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        output = model(batch)
    return torch.cat([output.prediction_B3, output.logits_BC, output.modality_logits_BMC.flatten(1)], dim=1)


def picked(batch: Batch, clips: list[int]) -> Batch:
    parts = {name: value[clips] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return replace(batch, **parts, utterance_ids=tuple(batch.utterance_ids[clip] for clip in clips))


@pytest.mark.parametrize("sound", ["statistics", "encoder"])
@pytest.mark.parametrize("place", PLACES)
def test_the_company_of_other_dialogues_and_the_order_of_the_batch_change_nothing(place, sound):
    model = made(place, "attention", sound=sound)
    batch = talk()
    together = every_output(model, batch)
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    torch.testing.assert_close(every_output(model, picked(batch, order)), together[order], atol=1e-5, rtol=0)
    for dialogue in (2, 5, 7):
        clips = torch.nonzero(dialogue == DIALOGUES).flatten().tolist()
        torch.testing.assert_close(every_output(model, picked(batch, clips)), together[clips], atol=1e-5, rtol=0)


def test_what_is_padded_is_never_read():
    model, batch = made(), talk()
    dirty = batch.features_BTF.clone()
    for clip, length in enumerate(batch.lengths_B):
        dirty[clip, length:] = 1e3
    torch.testing.assert_close(every_output(model, replace(batch, features_BTF=dirty)), every_output(model, batch))


def test_a_turn_hears_the_others_of_its_dialogue_and_nobody_else():
    model, batch = made(), talk()
    before = every_output(model, batch)
    louder = batch.features_BTF.clone()
    louder[3] += 1.0  # a turn of dialogue 5, whose other turn is clip 6
    moved = (every_output(model, replace(batch, features_BTF=louder)) - before).abs().amax(1) > 1e-6
    assert moved.tolist() == [clip in (3, 6) for clip in range(9)]


def test_the_order_of_turns_matters():
    model, batch = made(), talk()
    turned = every_output(model, replace(batch, turn_B=-TURNS))
    assert (turned - every_output(model, batch)).abs().amax(1).min() > 1e-4


def test_without_dialogues_each_clip_is_one_by_itself():
    model, batch = made(), talk()
    alone = every_output(model, replace(batch, dialogue_B=None, turn_B=None))
    apart = every_output(model, replace(batch, dialogue_B=torch.arange(9), turn_B=TURNS))
    torch.testing.assert_close(alone, apart)
    assert (alone - every_output(model, batch)).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("place", PLACES)
def test_without_classes_there_are_no_logits(place):
    output = made(place, classes=[])(talk())
    assert output.prediction_B3.shape == (9, 3)
    assert (output.logits_BC, output.modality_logits_BMC) == (None, None)


def test_impossible_options_are_named():
    with pytest.raises(ConfigError, match=r"model\.perspective\.heads"):
        made(heads=3)
    with pytest.raises(ConfigError, match=r"model\.perspective\.sound"):
        made(encoder={"kind": "ssl"})
