"""protocol: a model evaluated by the corpus's own protocol: a trial per fold and seed, test predictions pooled.

A trial is the same run as a training by `emoray train` with its seed (and fold) and has the same folder: protocols of
other seeds, and train itself, resume or reuse it. After a kill, the same command resumes; when all is done, it reads
what is stored. No version is registered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Group, RenderableType
from rich.table import Table

from emoray.corpora import folds
from emoray.digest import digest
from emoray.errors import InputError
from emoray.evaluation.pages import SYNTHETIC_NOTE
from emoray.evaluation.summary import TITLES, level_title
from emoray.lake.tables import Lake
from emoray.registry.tracking import connect
from emoray.schema import assert_speaker_disjoint
from emoray.training.data.training_set import TrainingSet
from emoray_jobs.evaluate import tables
from emoray_jobs.evaluate.predictions import nothing_labelled
from emoray_jobs.evaluate.stored import SplitReport, test_splits
from emoray_jobs.protocol.mlflow_runs import FAILED, ProtocolRuns
from emoray_jobs.protocol.report import write_reports
from emoray_jobs.protocol.trial import Trial, TrialOutcome, finished
from emoray_jobs.protocol.trials import PlannedTrial, run_trials
from emoray_jobs.tables import titled_table
from emoray_jobs.train.inputs import TrainingInputs, load_inputs, prepare_run
from emoray_jobs.train.register import levels_of

if TYPE_CHECKING:
    from emoray.models.config import ModelConfig
    from emoray.training.config import LaunchConfig, TrainConfig
    from emoray_jobs.config import Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial.

    Attributes:
        outcome: None if it failed.
        reused: Whether an earlier call finished it.
    """

    trial: Trial
    outcome: TrialOutcome | None
    error: str | None
    reused: bool


#: In place of a number of groups: speakers are not left out in turn.
NO_GROUPS = 0


@dataclass(frozen=True)
class ProtocolResult:
    """The result of a protocol.

    Attributes:
        run_id: The parent run in MLflow.
        kind: Name of the model.
        trials: All of them, seed by seed.
        reports: One per test split, over the seeds whose trials are all finished; empty where there is none.
        seconds: Duration of this call.
    """

    name: str
    run_id: str
    corpus: str
    kind: str
    trials: list[TrialResult]
    reports: list[SplitReport]
    synthetic: bool
    seconds: float

    @property
    def failed(self) -> list[TrialResult]:
        """The trials that are not finished; their seeds are not in the reports."""
        return [one for one in self.trials if one.outcome is None]


def run(config: Config, *, seeds: Sequence[int] = (), leave_out: Literal["speaker"] | None = None) -> ProtocolResult:
    """Train and test the configured model on every fold with every seed, and report on the pooled predictions.

    Raises:
        LakeError: The corpus is not in the lake, or not annotated although the model reads text.
        SchemaError: A known speaker of train is in dev or a test set.
        TrainingError: A fold has nothing to train on or to select by.
        InputError: There is no seed (`no_seed`), or no labelled test clip (`no_test_split`, `empty_split`).
    """
    started = time.monotonic()
    chosen = tuple(dict.fromkeys(seeds or config.protocol.seeds))
    if not chosen:
        raise InputError(
            "a protocol needs a seed", where="protocol.seeds", remedy="For example --seeds 0 1 2", kind="no_seed"
        )
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    with contextlib.ExitStack() as stack:
        data = load_inputs(
            lake,
            config.cluster,
            stack,
            corpus=config.corpus,
            annotate=config.annotate,
            model=config.model,
            launch=config.launch,
        )
        options = config.protocol
        groups = options.speaker_groups if leave_out or options.leave_out else NO_GROUPS
        planned = _plan(lake, data, config.model, config.train, config.launch, chosen, groups)
        trials = [one.trial for one in planned]
        name = f"protocol-{config.model.name}-{digest({'runs': [trial.run for trial in trials]}, 12)}"
        before = {trial.run for trial in trials if finished(lake, trial) is not None}
        runs = ProtocolRuns(tracking, lake, name)
        errors: dict[str, str] = {}
        whole = planned
        if runs.finished and len(before) == len(trials):
            reports = write_reports(lake, config.corpus, config.evaluate, whole, runs, tracking)
        else:
            runs.begin(planned[0].prepared, chosen)
            with tracking.running(runs.parent_id), contextlib.closing(runs):
                errors = run_trials(lake, config.cluster, config.protocol, stack, planned, runs)
                broken = {one.trial.seed for one in planned if one.trial.run in errors}
                whole = [one for one in planned if one.trial.seed not in broken]
                logged = None if errors else tracking
                reports = write_reports(lake, config.corpus, config.evaluate, whole, runs, logged)
            if errors:
                tracking.end_run(runs.parent_id, FAILED)
    return ProtocolResult(
        name=name,
        run_id=runs.parent_id,
        corpus=config.corpus.name,
        kind=config.model.name,
        trials=[TrialResult(one, finished(lake, one), errors.get(one.run), reused=one.run in before) for one in trials],
        reports=reports,
        synthetic=config.corpus.kind == "synthetic",
        seconds=time.monotonic() - started,
    )


def _plan(
    lake: Lake,
    data: TrainingInputs,
    model: ModelConfig,
    train: TrainConfig,
    launch: LaunchConfig,
    seeds: Sequence[int],
    speaker_groups: int | None,
) -> list[PlannedTrial]:
    """The trials, seed by seed; all of them share one packed training set.

    Args:
        speaker_groups: Of the speakers that are left out in turn: None for each alone; `NO_GROUPS` for the corpus's
            own folds or splits.
    """
    corpus = data.corpus.name
    parts: list[tuple[folds.Fold | None, TrainingSet]]
    if speaker_groups != NO_GROUPS:
        every = folds.leave_speakers_out(data.training_set.frame.to_arrow(), speaker_groups)
        parts, tests = [(fold, data.training_set.of_fold(fold)) for fold in every], ["test"]
    elif folds.known(lake, corpus):
        parts, tests = [(fold, data.training_set.of_fold(fold)) for fold in folds.read(lake, corpus)], ["test"]
    else:
        unknown = assert_speaker_disjoint(data.training_set.frame.to_arrow())
        if unknown:
            log.warning("%d utterances have no known speaker: their splits cannot be checked", unknown)
        parts, tests = [(None, data.training_set)], test_splits(lake, corpus)
    # A test set whose labels are hidden is for submissions.
    labelled = tuple(name for name in tests if any(part.ids(name) for _, part in parts))
    if not labelled:
        raise nothing_labelled(corpus, tests)
    planned = []
    for seed in seeds:
        seeded = train.model_copy(update={"seed": seed})
        for fold, part in parts:
            prepared = prepare_run(lake, dataclasses.replace(data, training_set=part), model, seeded, launch, fold)
            trial = Trial(prepared.assignment, labelled, levels_of(model, data.training_set.conditions))
            planned.append(PlannedTrial(trial, prepared))
    return planned


def render(result: ProtocolResult) -> RenderableType:
    """The tables as they are printed."""
    new = [one for one in result.trials if one.outcome is not None and not one.reused]
    done = len(result.trials) - len(result.failed)
    counts = f"{done} of {len(result.trials)} trials are finished, {len(new)} of them by this call"
    parts: list[RenderableType] = []
    for report in result.reports:
        parts += [_table(result, report), f"Report: {report.page}"]
        if report.metrics["warning"]:
            parts.append(report.metrics["warning"])
    parts.append(f"{counts} ({result.seconds:.0f} s). Parent run {result.run_id} in MLflow; no version was registered.")
    parts += [f"Failed: {one.trial.name} (checkpoints/{one.trial.run}): {one.error}" for one in result.failed]
    if result.failed:
        seeds = ", ".join(map(str, dict.fromkeys(one.trial.seed for one in result.failed)))
        parts.append(f"Not in the figures: seed {seeds}, of which a trial failed. The same command tries it again.")
    return Group(*parts, *([SYNTHETIC_NOTE] if result.synthetic else []))


def _table(result: ProtocolResult, report: SplitReport) -> Table:
    """Pooled metrics per semantic level, then each fold's and each seed's at the richest level."""
    m = report.metrics
    names = [*tables.metric_names(m), *(["macro_f1"] if m["classes"] else [])]
    heading = f"{result.kind} on {result.corpus}, {report.split}: {m['n_clips']:,} clips, {m['n_speakers']} speakers"
    heading += f", {len(m['folds'])} folds" if m["folds"] else ""
    seeds = f"{len(m['seeds'])} seeds (mean ± sd)" if len(m["seeds"]) > 1 else f"seed {m['seeds'][0]}"
    interval = f"{100 * m['interval_level']:g} % intervals over {m['unit']}s"
    shown = titled_table(f"{heading}, {seeds}; {interval}", ["test clips"], [TITLES[name] for name in names])
    for level, figures in m["levels"].items():
        shown.add_row(level_title(level), *(tables.cell(figures["metrics"][name]) for name in names))
    fullest = m["levels"][report.fullest]
    shown.add_section()
    for row in fullest["folds"]:
        cells = [tables.cell(row[name], interval="") for name in names]
        shown.add_row(f"fold {row['value']}, {row['n_clips']} clips", *cells)
    shown.add_section()
    for seed, values in fullest["seeds"].items():
        shown.add_row(f"seed {seed}", *(tables.cell({"estimate": values[name]}) for name in names))
    return shown
