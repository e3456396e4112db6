"""The reports of a protocol: one per test split, over the pooled predictions of its folds and seeds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from emoray.digest import digest
from emoray.evaluation.report import About, Report, write_report
from emoray.lake.tables import Lake
from emoray.models.build import WITHOUT_GRADIENT
from emoray.registry.tracking import Tracking
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import text_read
from emoray_jobs.evaluate import stored
from emoray_jobs.evaluate.stored import SplitReport
from emoray_jobs.progress import spinner
from emoray_jobs.protocol.mlflow_runs import ProtocolRuns
from emoray_jobs.protocol.trial import Trial, test_predictions
from emoray_jobs.protocol.trials import PlannedTrial

if TYPE_CHECKING:
    from emoray.corpora import CorpusConfig
    from emoray.evaluation.config import EvaluateConfig


def write_reports(
    lake: Lake,
    corpus: CorpusConfig,
    options: EvaluateConfig,
    planned: Sequence[PlannedTrial],
    runs: ProtocolRuns,
    tracking: Tracking | None,
) -> list[SplitReport]:
    """Report on finished trials, test split by test split; a report that is stored and logged is read.

    Args:
        lake: Lake of the trials and the reports, which go to `reports/protocols/<name>/<split>/`.
        planned: Trials of whole seeds: every fold of each is finished.
        tracking: The parent run gets reports and metrics in this store; None if trials are missing.
    """
    if not planned:
        return []
    trials = [one.trial for one in planned]
    rests_on = {"runs": [trial.run for trial in trials], "evaluate": options.model_dump(mode="json")}
    key = {"reported": digest(rests_on)}
    pooled = functools.cache(lambda: _pooled(lake, trials))

    def write(split: str, folder: str) -> Report:
        with spinner(f"reporting on {split}"):
            part = pooled().filter(pl.col("split") == split)
            about = _about(lake, corpus, planned, runs, split)
            report = write_report(folder, part, options, about, classes=trials[0].assignment.model.classes)
            if tracking is not None:
                stored.log_report(tracking, runs.parent_id, split, report)
        return report

    return [
        stored.reuse_or_write(
            lake,
            ("reports", "protocols", runs.name, split),
            split,
            key,
            functools.partial(write, split),
            reuse=runs.finished,
        )
        for split in trials[0].tests
    ]


def _pooled(lake: Lake, trials: Sequence[Trial]) -> pl.DataFrame:
    """Test predictions of all folds and seeds; the report checks that each clip occurs once per seed and level."""
    frame, assignment = pl.concat([test_predictions(lake, trial) for trial in trials]), trials[0].assignment
    if assignment.train.objective.ccc == 0 and assignment.model.name not in WITHOUT_GRADIENT:
        return frame.drop([f"{name}_pred" for name in DIMENSIONS])  # of a head that nothing trained
    return frame


def _about(lake: Lake, corpus: CorpusConfig, planned: Sequence[PlannedTrial], runs: ProtocolRuns, split: str) -> About:
    trials, prepared = [one.trial for one in planned], planned[0].prepared
    model = trials[0].assignment.model
    if trials[0].fold is None:
        how = f"The corpus's own partitions; one model per seed was trained on train and scored {split} once."
    else:
        how = (
            f"{len({trial.fold for trial in trials})} folds: each leaves one part of the corpus out for testing,"
            " another selects the epoch, the others train. Predictions are pooled: each clip was predicted once per"
            " seed, by the model that left its part out."
        )
    protocol = [how, "Known speakers of train occur in neither dev nor a test set, which was checked in each fold."]
    if text_read(model) and trials[0].fold is not None:
        protocol.append(
            "Speakers' and the corpus's prosody norms, which emphasis and delivery are measured against, were fitted on"
            " the clips of all folds; they read no label."
        )
    return stored.about(
        lake,
        corpus,
        f"{model.name} on {corpus.name}, {split}: the corpus's protocol",
        facts={
            "protocol": runs.name,
            "MLflow run": runs.parent_id,
            "seeds": ", ".join(map(str, dict.fromkeys(trial.seed for trial in trials))),
            **{name: prepared.hashes[name] for name in ("emoray.training_set", "emoray.commit")},
        },
        protocol=protocol,
    )
