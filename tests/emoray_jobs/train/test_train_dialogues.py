"""A model of dialogues by the same job as every other: two Ray Train workers, report, bundle, model card."""

from __future__ import annotations

import jobs_kit
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scoring_kit

from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.card import model_card
from emoray.scoring.scorer import load_bundle
from emoray_jobs.annotate import job as annotate
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.train import job as train

pytestmark = pytest.mark.long

MODEL = (
    "model.name=perspective",
    "model.classes=[good, bad]",
    "train.objective.category=1",
    "train.plan.batch_size=3",
    "launch.workers=2",
    "train.epochs=2",
)


def write_dialogues(lake: Lake) -> None:
    """The tiny corpus, each speaker's clips as the turns of a dialogue, and classes by the valence."""
    jobs_kit.write_corpus(lake)
    table = lake.utterances(jobs_kit.CORPUS)
    parts = [name.split("-") for name in table["utterance_id"].to_pylist()]
    classes = pc.if_else(pc.greater(table["valence"], 0.4), "good", "bad")
    columns = {
        "dialogue_id": pa.array([speaker for speaker, _ in parts]),
        "turn": pa.array([int(turn) for _, turn in parts], pa.int32()),
        "emotion": classes,
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    lake.write_utterances(jobs_kit.CORPUS, table)


def test_a_model_of_dialogues_is_trained_judged_and_scores_single_clips(tmp_path, ray_session):
    config = jobs_kit.config(tmp_path / "lake", *MODEL)
    write_dialogues(Lake(config.lake))
    annotate.run(config)
    result = train.run(config, champion=True)
    tracking = jobs_kit.store(config)
    assert result.steps == 4  # six dialogues of train, three a batch, two epochs
    points = jobs_kit.logged(tracking.client, result.run_id)
    assert ("loss_modalities", 3) in points
    alone = train.run(jobs_kit.config(config.lake.root, *MODEL, "launch.workers=0"), fresh=True)
    assert result.dev == pytest.approx(alone.dev, abs=1e-4)

    (report,) = evaluate.run(config, model=result.version).reports
    metrics = report.metrics["levels"]["full"]["metrics"]
    assert {"ua", "wa", "macro_f1", "ccc_mean"} <= metrics.keys()
    folder = versions.fetch(tracking, versions.resolve(tracking, result.version))
    scorer = load_bundle(folder)
    (score,) = scorer.score([scoring_kit.request()])
    assert sum(score.emotion.values()) == pytest.approx(1, abs=1e-5)
    card = model_card(scorer.bundle, title="t", corpus="c", facts={}, synthetic=False)
    assert "a clip scored alone is a dialogue of one turn" in card
