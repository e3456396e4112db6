"""The reports of a protocol: one per test split, over the pooled predictions of its folds and seeds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from emoray.digest import digest
from emoray.evaluation.report import About, write_report
from emoray.lake.tables import Lake
from emoray.models.build import WITHOUT_GRADIENT
from emoray.registry.tracking import Tracking
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import text_read
from emoray_jobs.evaluate.stored import KEY, METRICS, SplitReport, ceiling, store
from emoray_jobs.progress import spinner
from emoray_jobs.protocol.mlflow_runs import ProtocolRuns
from emoray_jobs.protocol.trial import Trial, test_predictions
from emoray_jobs.protocol.trials import PlannedTrial

if TYPE_CHECKING:
    from emoray_jobs.config import Config


def write_reports(
    config: Config, lake: Lake, planned: Sequence[PlannedTrial], runs: ProtocolRuns, tracking: Tracking | None
) -> list[SplitReport]:
    """Report on finished trials, as far as the same report is not there.

    Args:
        config: The jobs' configuration.
        lake: Where everything is.
        planned: Trials of whole seeds: every fold of each is finished.
        runs: The protocol's MLflow runs.
        tracking: The parent run gets reports and metrics in this store; None: it does not, trials are missing.

    Returns:
        One report per test split, in `reports/protocols/<name>/<split>/`.
    """
    if not planned:
        return []
    trials = [one.trial for one in planned]
    evaluated = config.evaluate.model_dump(mode="json")
    key = {"reported": digest({"runs": [trial.run for trial in trials], "evaluate": evaluated})}
    pooled: pl.DataFrame | None = None
    reports = []
    for split in trials[0].tests:
        where = ("reports", "protocols", runs.name, split)
        if runs.finished and lake.exists(*where, KEY) and lake.read_json(*where, KEY) == key:
            reports.append(SplitReport(split, lake.uri(*where), lake.read_json(*where, METRICS), reused=True))
            continue
        pooled = _pooled(config, lake, trials) if pooled is None else pooled
        with spinner(f"reporting on {split}"), tempfile.TemporaryDirectory(prefix="emoray-report-") as work:
            part = pooled.filter(pl.col("split") == split)
            about = _about(config, lake, planned, runs, split)
            report = write_report(work, part, config.evaluate, about, classes=config.model.classes)
            if tracking is not None:
                tracking.log_folder(runs.parent_id, work, f"report/{split}")
                flat = report.flat().items()
                tracking.log_once(runs.parent_id, {f"{split}/{name}": value for name, value in flat})
            store(lake, work, where, key)
        reports.append(SplitReport(split, lake.uri(*where), report.metrics, reused=False))
    return reports


def _pooled(config: Config, lake: Lake, trials: Sequence[Trial]) -> pl.DataFrame:
    """Test predictions of all folds and seeds; the report holds them to each clip once per seed and level."""
    frame = pl.concat([test_predictions(lake, trial) for trial in trials])
    if config.train.objective.ccc == 0 and config.model.name not in WITHOUT_GRADIENT:
        return frame.drop([f"{name}_pred" for name in DIMENSIONS])  # of a head that nothing trained
    return frame


def _about(config: Config, lake: Lake, planned: Sequence[PlannedTrial], runs: ProtocolRuns, split: str) -> About:
    trials, prepared = [one.trial for one in planned], planned[0].prepared
    folds = {trial.fold for trial in trials}
    seeds = list(dict.fromkeys(trial.seed for trial in trials))
    if trials[0].fold is None:
        how = f"The corpus's own partitions; one model per seed was trained on train and scored {split} once."
    else:
        how = (
            f"{len(folds)} folds: each leaves one part of the corpus out for testing, another selects the epoch, the"
            " others train. Predictions are pooled: each clip was predicted once per seed, by the model that left its"
            " part out."
        )
    protocol = [how, "Known speakers of train occur in neither dev nor a test set, which was checked in each fold."]
    if text_read(config.model) and trials[0].fold is not None:
        protocol.append(
            "Speakers' and the corpus's prosody norms, which emphasis and delivery are measured against, were fitted on"
            " the clips of all folds; they read no label."
        )
    synthetic = config.corpus.kind == "synthetic"
    kept = ("emoray.training_set", "emoray.commit")
    return About(
        title=f"{config.model.name} on {config.corpus.name}, {split}: the corpus's protocol",
        corpus=config.corpus.name,
        facts={
            "protocol": runs.name,
            "MLflow run": runs.parent_id,
            "seeds": ", ".join(map(str, seeds)),
            **{name: prepared.hashes[name] for name in kept},
        },
        protocol=protocol,
        ceiling=ceiling(lake, config.corpus.name) if synthetic else None,
        synthetic=synthetic,
    )
