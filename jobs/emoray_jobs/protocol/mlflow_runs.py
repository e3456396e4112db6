"""The MLflow runs of a protocol: one parent, one child per trial, each found again by its tags.

Runs are identified by their tags alone: a run is made together with its tags, so a killed call leaves no second one.
Children get their metrics from the trials' journals, whichever call trained them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from emoray.evaluation.summary import point_estimates
from emoray.lake.tables import Lake
from emoray.registry.tracking import Tracking
from emoray_jobs.protocol.trial import Trial, test_predictions
from emoray_jobs.train import metric_journal
from emoray_jobs.train.register import PreparedRun, begin_run, parameters

PROTOCOL, RUN, SEED, FOLD, ERROR = "emoray.protocol", "emoray.run", "emoray.seed", "emoray.fold", "emoray.error"
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"


class ProtocolRuns:
    """The runs of a protocol in the tracking store."""

    def __init__(self, tracking: Tracking, lake: Lake, name: str) -> None:
        self.name = name
        self._tracking, self._lake = tracking, lake
        parent = self._find({PROTOCOL: name})
        self._parent_id = None if parent is None else str(parent.info.run_id)
        #: Whether everything is logged in it.
        self.finished = parent is not None and parent.info.status == FINISHED
        self._open: dict[str, tuple[str, metric_journal.MetricJournalReader]] = {}

    @property
    def parent_id(self) -> str:
        """The parent's id, once it has begun."""
        assert self._parent_id is not None, "begin comes first"
        return self._parent_id

    def begin(self, prepared: PreparedRun, seeds: Sequence[int]) -> None:
        """Make the parent, if it is missing."""
        if self._parent_id is not None:
            return
        params = parameters(prepared) | {"protocol": {"seeds": list(seeds)}}
        del params["train"]["seed"]
        shared = {key: value for key, value in prepared.hashes.items() if key not in {RUN, SEED, "emoray.plan"}}
        tags = {**shared, PROTOCOL: self.name}
        self._parent_id = self._tracking.start_run(self.name, verb="protocol", params=params, tags=tags)

    def start(self, trial: Trial, prepared: PreparedRun) -> None:
        """Make a trial's child, or find it again, and log what the trial did before this call."""
        child = self._find({MLFLOW_PARENT_RUN_ID: self.parent_id, RUN: trial.run})
        if child is not None and child.info.status == FINISHED:
            return
        if child is None:
            tags = {MLFLOW_PARENT_RUN_ID: self.parent_id}
            if trial.fold is not None:
                tags[FOLD] = str(trial.fold)
            run_id = begin_run(self._tracking, prepared, verb="protocol", name=trial.name, tags=tags)
        else:
            run_id = str(child.info.run_id)
            self._tracking.client.update_run(run_id, status="RUNNING")
            if ERROR in child.data.tags:
                self._tracking.client.delete_tag(run_id, ERROR)
        logger = metric_journal.MetricLogger(self._tracking.client, run_id)
        self._open[trial.run] = (run_id, metric_journal.MetricJournalReader(self._lake, trial.run, logger.log))
        self.follow(trial)

    def follow(self, trial: Trial) -> None:
        """Log what a trial has done since the last call."""
        if trial.run in self._open:
            self._open[trial.run][1].poll()

    def end(self, trial: Trial, error: str | None = None) -> None:
        """End a trial's child, with the metrics of its test clips or with its error."""
        if trial.run not in self._open:
            return
        self.follow(trial)
        run_id, _ = self._open.pop(trial.run)
        if error is not None:
            self._tracking.set_tags(run_id, {ERROR: error})
            self._tracking.end_run(run_id, FAILED)
            return
        predictions = test_predictions(self._lake, trial)
        for split in trial.tests:
            found = point_estimates(predictions.filter(predictions["split"] == split), trial.assignment.model.classes)
            self._tracking.log_once(run_id, {f"{split}/{name}": value for name, value in found.items()})
        self._tracking.end_run(run_id)

    def close(self) -> None:
        """Mark the children of trials that were neither finished nor failed."""
        for run_id, _ in self._open.values():
            self._tracking.end_run(run_id, KILLED)
        self._open.clear()

    def _find(self, tags: Mapping[str, str]) -> Run | None:
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._tracking.client.search_runs([self._tracking.experiment_id], wanted, max_results=1)
        return found[0] if found else None
