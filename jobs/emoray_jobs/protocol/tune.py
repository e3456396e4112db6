"""Ray Tune: the trials of a protocol in parallel on a cluster, each in its own process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.fs
import ray
from ray import tune

from emoray.lake.tables import Lake
from emoray_jobs.cluster.session import cluster_address
from emoray_jobs.protocol.trial import Trial, Watcher, run_trial_safely

if TYPE_CHECKING:
    from emoray_jobs.config import ClusterConfig, ProtocolConfig

NUMBER, STEP, FAILURE = "number", "step", "failure"


def run_on_ray(
    lake: Lake, cluster: ClusterConfig, options: ProtocolConfig, trials: Sequence[Trial], watch: Watcher
) -> None:
    """Run trials to their ends, as many at once as fit.

    Tune schedules them and restarts those whose process died. The results are on the lake, so Tune's own state is never
    read again.

    Args:
        options: What a trial reserves, and how many run at once.
        trials: The trials; one launch for all.
    """
    # The command line handles Ctrl-C, and MLflow has the figures.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    cpus = options.cpus_per_trial
    if cluster_address(cluster) is None:
        cpus = min(cpus, ray.cluster_resources().get("CPU", cpus))  # a local Ray does not grow
    resources = {"cpu": cpus} | ({"gpu": options.gpus_per_trial} if trials[0].assignment.launch.gpu else {})
    callback = _Callback(watch)
    results = tune.Tuner(
        tune.with_resources(tune.with_parameters(_work, trials=list(trials)), resources),
        param_space={NUMBER: tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=options.max_parallel, reuse_actors=True),
        run_config=tune.RunConfig(
            name="protocol",
            storage_path=lake.path("work", "ray_tune"),
            storage_filesystem=None if lake.is_local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(lake.fs)),
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            callbacks=[callback],
            verbose=0,
        ),
    ).fit()
    for result in (results[place] for place in range(len(results))):
        assert result.config is not None, "Tune gives every trial its configuration"
        number, error = result.config[NUMBER], (result.metrics or {}).get(FAILURE)
        if error is None and result.error is not None:
            error = f"its process died more than {options.max_failures} times: {' '.join(str(result.error).split())}"
        callback.end(number, error)


def _work(config: dict[str, Any], trials: Sequence[Trial]) -> None:
    """Run one trial, in one of Tune's processes."""
    failure = run_trial_safely(trials[config[NUMBER]], lambda step: tune.report({STEP: step}))
    if failure is not None:  # it would fail again; only after the death of a process is another try useful
        tune.report({FAILURE: failure})


class _Callback(tune.Callback):
    """Passes Tune's events to the watcher, in the driver. Tune passes all arguments by name."""

    def __init__(self, watch: Watcher) -> None:
        self._watch = watch
        self._ended: set[int] = set()

    def on_trial_start(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self._watch.start(trial.config[NUMBER])

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        if result.get(STEP) is not None:
            self._watch.on_step(trial.config[NUMBER], result[STEP])

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self.end(trial.config[NUMBER], (trial.last_result or {}).get(FAILURE))

    def end(self, number: int, error: str | None) -> None:
        """Report the end of a trial, once."""
        if number not in self._ended:
            self._ended.add(number)
            self._watch.end(number, error)
