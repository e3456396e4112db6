"""Training on Ray Train workers: the same result as in one process, also when a worker dies."""

from __future__ import annotations

import jobs_kit
import pytest

from emoray.errors import TrainingError
from emoray.lake.tables import Lake
from emoray_jobs.train import job as train
from emoray_jobs.train import launch

pytestmark = pytest.mark.long


@pytest.fixture
def corpus(tmp_path):
    def make(name, *overrides):
        config = jobs_kit.config(tmp_path / name, "model.name=acoustic", *overrides)
        jobs_kit.write_corpus(Lake(config.lake))
        return config

    return make


def test_two_workers_of_whom_one_dies_end_like_one_process(corpus, ray_session, monkeypatch):
    alone = corpus("alone")
    expected = train.run(alone)
    config = corpus("together", "launch.workers=2")
    monkeypatch.setattr(launch, "train_on_worker", jobs_kit.train_and_die_once)
    result = train.run(config)
    assert Lake(config.lake).exists("died")
    assert result.dev == pytest.approx(expected.dev, abs=1e-5)
    assert (result.steps, result.best_epoch) == (expected.steps, expected.best_epoch)
    tracking = jobs_kit.store(config)
    assert jobs_kit.runs(tracking) == [result.run_id]
    points = jobs_kit.logged(tracking.client, result.run_id)
    assert points == pytest.approx(jobs_kit.logged(jobs_kit.store(alone).client, expected.run_id), abs=1e-4)


def test_a_diverging_run_is_not_restarted(corpus, ray_session):
    config = corpus("diverging", "launch.workers=2", "train.optimizer.lr=1e30")
    with pytest.raises(TrainingError, match="not finite for s0") as error:
        train.run(config)
    assert error.value.kind == "non_finite_loss"
