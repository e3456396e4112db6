"""The machines of scikit-learn, as buffers of a model: same predictions, a fixed size, no pickle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from training_kit import model_config, pack_rows, planted_rows, random_batch, run_fit, train_config

from emoray.errors import ConfigError
from emoray.models.build import build
from emoray.schema import DIMENSIONS
from emoray.training.checkpoint import load_trained_weights, trained_weights

NAN = float("nan")


def svm(classes=(), **options):
    settings = {"max_clips": 60, "c": 10.0, **options}
    return build(model_config(name="statistics_svm", classes=list(classes), statistics_svm=settings))


def statistics_by_hand(batch):
    clips = [clip[:length].double().numpy() for clip, length in zip(batch.features_BTF, batch.lengths_B, strict=True)]
    return np.stack([np.concatenate([clip.mean(0), clip.std(0), clip.max(0)]) for clip in clips])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_predicts_as_scikit_learn_does(classes):
    train, other = random_batch(50, 12, seed=1), random_batch(30, 12, seed=2)
    label_N = torch.arange(50) % classes
    label_N[:4] = -1
    target_N3 = train.target_B3.clone()
    target_N3[5:9, 1] = NAN
    model = svm("abcde"[:classes])
    model.fit(model.statistics(train), target_N3, label_N)
    output = model(other)

    inputs, unseen = statistics_by_hand(train), statistics_by_hand(other)
    for d in range(len(DIMENSIONS)):
        there = target_N3[:, d].isfinite().numpy()
        scaler = StandardScaler().fit(inputs)
        gamma = 1 / (inputs.shape[1] * scaler.transform(inputs).var())
        machine = SVR(C=10, epsilon=0.05, gamma=gamma).fit(scaler.transform(inputs[there]), target_N3[there, d])
        np.testing.assert_allclose(output.prediction_B3[:, d], machine.predict(scaler.transform(unseen)), atol=1e-4)
    kept = slice(4, None)
    machine = SVC(C=10, class_weight="balanced", gamma=gamma, break_ties=classes > 2)
    machine.fit(scaler.transform(inputs[kept]), label_N[kept])
    assert output.logits_BC.argmax(1).tolist() == machine.predict(scaler.transform(unseen)).tolist()
    values = machine.decision_function(scaler.transform(unseen))
    if classes > 2:
        np.testing.assert_allclose(output.logits_BC, values, atol=1e-3)
    else:
        np.testing.assert_array_equal(output.logits_BC.argmax(1) == 1, values > 0)


def test_it_is_the_usual_pipeline_where_all_clips_are_labelled():
    train, other = random_batch(40, 12, seed=3), random_batch(30, 12, seed=4)
    label_N = torch.arange(40) % 4
    model = svm("abcd")
    model.fit(model.statistics(train), torch.full((40, 3), NAN), label_N)
    machine = make_pipeline(StandardScaler(), SVC(C=10, class_weight="balanced", break_ties=True))
    machine.fit(statistics_by_hand(train), label_N)
    assert model(other).logits_BC.argmax(1).tolist() == machine.predict(statistics_by_hand(other)).tolist()
    torch.testing.assert_close(model(other).prediction_B3, torch.full((30, 3), 0.5))


def test_a_class_without_clips_is_never_predicted_and_one_class_always():
    train = random_batch(30, 12)
    two, one = svm("abc"), svm("abc")
    two.fit(two.statistics(train), train.target_B3, 2 * (torch.arange(30) % 2))
    one.fit(one.statistics(train), train.target_B3, torch.ones(30, dtype=torch.int64))
    assert set(two(train).logits_BC.argmax(1).tolist()) == {0, 2}
    assert set(one(train).logits_BC.argmax(1).tolist()) == {1}


def test_its_weights_fit_a_new_one_whatever_it_was_fitted_to():
    train = random_batch(30, 12)
    fitted, fresh = svm("ab"), svm("ab")
    fitted.fit(fitted.statistics(train), train.target_B3, train.label_B)
    load_trained_weights(fresh, trained_weights(fitted))
    assert torch.equal(fresh(train).logits_BC, fitted(train).logits_BC)
    assert not list(fitted.parameters())


def test_it_learns_the_plant_and_no_more_clips_than_it_may(tmp_path, caplog):
    """Arousal is in the loudness (`planted_rows`)."""
    caplog.set_level("INFO")
    model = model_config(name="statistics_svm", classes=["low", "high"], statistics_svm={"max_clips": 80})
    lake, set_hash = pack_rows(str(tmp_path), planted_rows(160, seed=3), model)
    trained, result = run_fit(lake, set_hash, model, train_config())
    assert result.steps == 0
    assert result.history[0]["ccc_arousal"] > 0.9
    assert result.history[0]["uar"] > 0.85
    assert (trained.model.regression_N3[:, 1] != 0).any()
    assert "80 of 120 clips" in caplog.text


def test_statistics_of_a_waveform_are_refused():
    with pytest.raises(ConfigError, match="waveform"):
        build(model_config(name="statistics_svm", encoder={"kind": "ssl"}))
