"""A model that measures sound against the speaker: conditions, figures and intervals for each state of the speaker."""

from __future__ import annotations

import contextlib

import jobs_kit
import numpy as np
import polars as pl
import pytest
from annotate_kit import leave_out_encoder

from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.scoring.bundle import open_bundle
from emoray_jobs.annotate import job as annotate
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.evaluate import predictions
from emoray_jobs.promote import job as promote
from emoray_jobs.train import job as train

LEVELS = ("audio/unknown/reference", "audio/enrolled-2/reference")
SPEAKER_NORMS = (
    "model.name=acoustic",
    "model.encoder.speaker_norms=true",
    "annotate.norms.enrol_clips=2",
    "annotate.conditions.enrol_clips=[0]",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, ray_session):
    config = jobs_kit.config(tmp_path_factory.mktemp("norms") / "lake", *SPEAKER_NORMS)
    jobs_kit.write_corpus(Lake(config.lake))
    with pytest.MonkeyPatch.context() as patch:
        leave_out_encoder(patch)
        annotate.run(config)
        result = train.run(config)
    tracking = jobs_kit.store(config)
    return config, open_bundle(versions.fetch(tracking, versions.by_version(tracking, result.version)))


def test_each_state_of_the_speaker_has_its_interval_and_its_row(trained):
    config, bundle = trained
    assert set(bundle.half_widths) == set(LEVELS)
    assert bundle.model.speaker_norms.between_M.any()
    levels = evaluate.run(config).report("test").metrics["levels"]
    assert tuple(levels) == LEVELS
    # Two of a speaker's six clips enrol them.
    assert [levels[name]["n_clips"] for name in LEVELS] == [18, 12]
    assert all(levels[name]["coverage"] for name in LEVELS)


def test_the_audio_gives_the_same_scores_as_the_packed_features(trained, monkeypatch):
    config, bundle = trained
    lake = Lake(config.lake)
    asked = {"corpus": config.corpus.name, "annotate": config.annotate, "launch": config.launch}
    with contextlib.ExitStack() as stack:
        packed = predictions.predictions(
            lake, bundle, ["test"], LEVELS, cluster=config.cluster, stack=stack, **asked
        ).sort("level", "utterance_id")
    keys = pl.DataFrame(lake.utterances(config.corpus.name))
    heard = predictions._from_audio(lake, config.corpus.name, bundle, keys, ["test"], LEVELS, threads=1)
    heard = heard.sort("level", "utterance_id")
    assert heard["utterance_id"].to_list() == packed["utterance_id"].to_list()
    for name in ("valence", "arousal", "dominance"):
        np.testing.assert_allclose(heard[f"{name}_pred"], packed[f"{name}_pred"].clip(0, 1), atol=1e-5)
    one, other = (packed.filter(pl.col("level") == name).sort("utterance_id") for name in LEVELS)
    both = one.join(other, on="utterance_id")
    assert (both["arousal_pred"] - both["arousal_pred_right"]).abs().max() > 1e-4


def test_the_gate_judges_it_under_each_state(trained):
    config, _ = trained
    decision = promote.run(config).decision
    assert set(decision.figures["levels"]) == {"enrolled-2/reference", "unknown/reference"}


def test_a_corpus_that_is_not_annotated_has_nobody_enrolled_and_training_says_so(tmp_path, caplog):
    config = jobs_kit.config(tmp_path / "lake", *SPEAKER_NORMS, "train.epochs=1")
    jobs_kit.write_corpus(Lake(config.lake))
    train.run(config)
    assert "no clip enrols its speaker" in caplog.text
