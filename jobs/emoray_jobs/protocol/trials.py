"""Running the trials of a protocol: on Ray in parallel, or in this process one after another."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emoray.lake.tables import Lake
from emoray_jobs.cluster.session import session
from emoray_jobs.progress import message
from emoray_jobs.protocol.mlflow_runs import ProtocolRuns
from emoray_jobs.protocol.trial import Trial, finished, run_trial_safely
from emoray_jobs.train.register import PreparedRun

if TYPE_CHECKING:
    from emoray_jobs.config import ClusterConfig, ProtocolConfig

#: Between two lines on the progress of the trials.
LINE_EVERY_S = 5.0


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and the inputs of its MLflow run."""

    trial: Trial
    prepared: PreparedRun


def run_trials(
    lake: Lake,
    cluster: ClusterConfig,
    options: ProtocolConfig,
    stack: contextlib.ExitStack,
    planned: Sequence[PlannedTrial],
    runs: ProtocolRuns,
) -> dict[str, str]:
    """Run the trials that are not finished; one that fails stops no other. Returns run → what stopped it.

    Args:
        cluster: Which Ray runs them; with `launch.workers=0` they stay in this process.
        stack: Keeps Ray, where it has to be started, beyond this call.
    """
    pending = []
    for one in planned:
        if finished(lake, one.trial) is None:
            pending.append(one)
        else:  # by another protocol, by a killed call, or with another tracking store
            runs.start(one.trial, one.prepared)
            runs.end(one.trial)
    if not pending:
        return {}
    watch = _Watch(lake, pending, runs, len(planned))
    trials = [one.trial for one in pending]
    if trials[0].assignment.launch.workers:
        stack.enter_context(session(cluster, lake.config))
        from emoray_jobs.protocol.tune import run_on_ray

        run_on_ray(lake, cluster, options, trials, watch)
    else:
        for number, trial in enumerate(trials):
            watch.start(number)
            watch.end(number, run_trial_safely(trial, functools.partial(watch.on_step, number)))
    return watch.errors


class _Watch:
    """Logs and prints the progress of trials: a line when one ends, and every few seconds their steps."""

    def __init__(self, lake: Lake, pending: Sequence[PlannedTrial], runs: ProtocolRuns, total: int) -> None:
        self.errors: dict[str, str] = {}
        self._lake, self._pending, self._runs, self._total = lake, pending, runs, total
        self._done = total - len(pending)
        self._steps: dict[int, int] = {}
        self._printed_at = time.monotonic()
        message(f"{total} trials" + (f", {self._done} of them finished before" if self._done else ""))

    def start(self, number: int) -> None:
        one = self._pending[number]
        self._runs.start(one.trial, one.prepared)

    def on_step(self, number: int, step: int) -> None:
        self._runs.follow(self._pending[number].trial)
        self._steps[number] = step
        if time.monotonic() - self._printed_at >= LINE_EVERY_S:
            running = sorted(self._steps.items())
            self._print("; ".join(f"{self._pending[number].trial.name} at step {at:,}" for number, at in running))

    def end(self, number: int, error: str | None) -> None:
        trial = self._pending[number].trial
        self._steps.pop(number, None)
        self._runs.end(trial, error)
        if error is not None:
            self.errors[trial.run] = error
            self._print(f"{trial.name} failed: {error}")
            return
        self._done += 1
        outcome = finished(self._lake, trial)
        assert outcome is not None, "a trial that ends without an error is finished"
        score = f"dev score {outcome.dev['score']:.3f} after epoch {outcome.best_epoch + 1}"
        self._print(f"{trial.name}: {score}, {outcome.seconds:.0f} s")

    def _print(self, news: str) -> None:
        self._printed_at = time.monotonic()
        message(f"{self._done} of {self._total} trials done; {news}")
