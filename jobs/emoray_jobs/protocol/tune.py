"""Ray Tune: the trials of a protocol side by side on a cluster, each in a process of its own."""

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
    """Run trials to their ends; as many at once as there is room for.

    Tune schedules them and brings back those whose process died; what is done is on the lake, so that nothing of its
    own state is read again.

    Args:
        lake: Where everything is.
        cluster: Which Ray this process uses.
        options: What a trial reserves, and how many run at once.
        trials: The trials; one launch for all.
        watch: Hears of them.
    """
    # Ctrl-C is the command line's, and MLflow has the figures.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    cpus = options.cpus_per_trial
    if cluster_address(cluster) is None:
        cpus = min(cpus, ray.cluster_resources().get("CPU", cpus))  # this machine gets no larger while they wait
    resources = {"cpu": cpus} | ({"gpu": options.gpus_per_trial} if trials[0].assignment.launch.gpu else {})
    told = _Callback(watch)
    results = tune.Tuner(
        tune.with_resources(tune.with_parameters(_work, trials=list(trials)), resources),
        param_space={NUMBER: tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=options.max_parallel, reuse_actors=True),
        run_config=tune.RunConfig(
            name="protocol",
            storage_path=lake.path("work", "ray_tune"),
            storage_filesystem=None if lake.is_local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(lake.fs)),
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            callbacks=[told],
            verbose=0,
        ),
    ).fit()
    for result in (results[place] for place in range(len(results))):
        assert result.config is not None, "Tune gives every trial its configuration"
        number, error = result.config[NUMBER], (result.metrics or {}).get(FAILURE)
        if error is None and result.error is not None:
            error = f"its process died more than {options.max_failures} times: {' '.join(str(result.error).split())}"
        told.end(number, error)


def _work(config: dict[str, Any], trials: Sequence[Trial]) -> None:
    """Run one trial, in a process of Tune's."""
    failure = run_trial_safely(trials[config[NUMBER]], lambda step: tune.report({STEP: step}))
    if failure is not None:  # it would fail again: only the death of the process is worth another try
        tune.report({FAILURE: failure})


class _Callback(tune.Callback):
    """Tells the watcher, in the driver, what Tune hears of the trials. Tune names all that it hands over."""

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
        """Tell the end of a trial, once."""
        if number not in self._ended:
            self._ended.add(number)
            self._watch.end(number, error)
