"""train: annotated corpus → packed training set → batch plan → Ray Train workers → a registered model version.

Run it again after a kill and it resumes from its last checkpoint; SIGTERM and Ctrl-C make it write one first. Run
it again when it is done and it hands back what there is. What makes a run is the data and the sections `model` and
`train`; the section `launch`, workers and machines do not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import RenderableType
from rich.text import Text

from emoray.errors import StoppedError
from emoray.evaluation.baselines import BASELINE
from emoray.lake.tables import Lake
from emoray.models.build import MODELS, OVER_DIALOGUES, WITHOUT_GRADIENT
from emoray.registry.promotion import NOT_JUDGED
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import CHAMPION
from emoray.schema import DIMENSIONS
from emoray.training.baselines import predict_baselines
from emoray.training.checkpoint import Checkpoint, checkpoint_steps
from emoray.training.predict import summarise
from emoray_jobs.cluster.session import cluster_address, session
from emoray_jobs.progress import message, spinner
from emoray_jobs.train import metric_journal
from emoray_jobs.train.inputs import load_inputs, prepare_run
from emoray_jobs.train.local import torch_threads
from emoray_jobs.train.register import PreparedRun, begin_run, register
from emoray_jobs.train.run_record import RunRecord, baselines_file
from emoray_jobs.train.run_setup import log_setup
from emoray_jobs.train.stop_signal import StopRequest, stop_request
from emoray_jobs.train.worker import train_here

if TYPE_CHECKING:
    from emoray_jobs.config import ClusterConfig, Config


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        run: Name of the run; `checkpoints/<run>/` in the lake.
        model_name: Name that it is registered under.
        alias: Alias that it got; None if it was there before.
        reused: The same training was finished before, nothing was done.
        resumed_at: Step that an unfinished run was continued from; None for a new one.
        steps: Steps of the whole run.
        best_epoch: Epoch whose weights were kept, from 0.
        dev: Dev metrics of that epoch.
        baselines: Name of each baseline → its dev score; empty for a model that is one, and for runs from before there
            were any.
        seconds: How long this call took.
    """

    run: str
    run_id: str
    version: str
    model_name: str
    alias: str | None
    reused: bool
    resumed_at: int | None
    steps: int
    best_epoch: int
    dev: dict[str, float]
    seconds: float
    baselines: dict[str, float] = field(default_factory=dict)


def run(config: Config, *, fresh: bool = False, champion: bool = False) -> TrainResult:
    """Train the configured model on the configured corpus and register it as challenger.

    Raises:
        LakeError: The corpus is not in the lake, or not annotated although the model reads text.
        StoppedError: SIGTERM or SIGINT came while it trained.
        TrainingError: Nothing to train on or to select by, a loss that is not finite, or too many failed workers.
    """
    started = time.monotonic()
    lake = Lake(config.lake)
    with contextlib.ExitStack() as stack:
        model, launch = config.model, config.launch
        data = load_inputs(
            lake, config.cluster, stack, corpus=config.corpus, annotate=config.annotate, model=model, launch=launch
        )
        prepared = prepare_run(lake, data, model, config.train, launch)
        tracking = connect(config.tracking, lake)
        record = RunRecord(lake, prepared.assignment.run, tracking)
        if fresh:
            record.forget()
        done, alias, resumed_at = record.finished(), None, None
        reused = done is not None
        if done is None:
            if not record.has_begun:
                run_id = begin_run(tracking, prepared, verb="train")
                log_setup(tracking, run_id, config.model_dump(mode="json"))
                record.begin(run_id)
            resumed_at = train_to_the_end(lake, config.cluster, prepared, record, tracking, stack)
            checkpoint = Checkpoint.latest(lake, record.run)
            assert checkpoint is not None, "training ends with a checkpoint"
            with spinner("registering the model"):
                level = config.evaluate.conformal_level
                version, alias = register(
                    tracking, prepared, checkpoint, record.run_id, conformal_level=level, champion=champion
                )
            dev = checkpoint.history[checkpoint.best_epoch]
            done = {
                "version": version.version,
                "steps": checkpoint.step,
                "best_epoch": checkpoint.best_epoch,
                "dev": dev,
                "baselines": _baselines(lake, tracking, prepared, record),
            }
            record.finish(done)
    return TrainResult(
        run=record.run,
        run_id=record.run_id,
        model_name=config.tracking.model_name,
        alias=alias,
        reused=reused,
        resumed_at=resumed_at,
        seconds=time.monotonic() - started,
        **done,
    )


def train_to_the_end(
    lake: Lake,
    cluster: ClusterConfig,
    prepared: PreparedRun,
    record: RunRecord,
    tracking: Tracking,
    stack: contextlib.ExitStack,
) -> int | None:
    """Have the workers of a run that has begun train to the end, and log its metrics.

    Returns the step that they resumed from, None for a new run.
    """
    assignment = prepared.assignment
    before = Checkpoint.latest(lake, record.run)
    first = 0 if before is None else before.step
    logger = metric_journal.MetricLogger(tracking.client, record.run_id)
    with lake.fs.open(lake.path(assignment.plan)) as file:
        lines = _EpochLines(pq.read_table(file, columns=["epoch"]), first)

    def see(entry: Mapping[str, Any]) -> None:
        logger.log(entry)
        lines.see(entry)

    follower = metric_journal.MetricJournalReader(lake, record.run, see)
    with tracking.running(record.run_id):
        if before is not None and first == lines.steps:
            # Killed between its last step and the end of this call.
            follower.poll()
        elif assignment.launch.workers and lines.steps:
            stack.enter_context(session(cluster, lake.config))
            from emoray_jobs.train.launch import train_on_ray

            local = cluster_address(cluster) is None
            with stop_request() as stop:
                with follower.poll_in_background():
                    train_on_ray(assignment, lake, stop, share_cores=local)
                _raise_if_stopped(stop, lake, record.run, lines.steps)
        else:
            follower.poll()
            with stop_request() as stop:
                with contextlib.suppress(StoppedError):
                    train_here(assignment, lambda _: follower.poll(), stop.is_set)
                _raise_if_stopped(stop, lake, record.run, lines.steps)
    return None if before is None else first


def _baselines(lake: Lake, tracking: Tracking, prepared: PreparedRun, record: RunRecord) -> dict[str, float]:
    """Fit the baselines, store what they predict for dev and test beside the run, and log their dev scores."""
    spec, training_set = prepared.assignment, prepared.data.training_set
    if spec.model.name in WITHOUT_GRADIENT:
        return {}
    present = training_set.frame["split"].drop_nulls().unique().sort()
    splits = [name for name in present if name == "dev" or name.startswith("test")]
    if not any(training_set.ids(name) for name in splits):
        return {}
    with spinner("fitting the baselines"), torch_threads(spec.launch.threads):
        frame = predict_baselines(training_set, spec.model, splits, batch_size=spec.launch.eval_batch_size)
    lake.write_parquet(frame.to_arrow(), *baselines_file(record.run))
    # The clips that the model's own score is of.
    over_dialogues = issubclass(MODELS[spec.model.name], OVER_DIALOGUES)
    selecting, _ = training_set.divide_dev(training_set.ids("dev"), dialogues=over_dialogues)
    dev, by_classes = frame.filter(pl.col("utterance_id").is_in(selecting)), spec.train.objective.ccc == 0
    scores = {
        str(name): summarise(part, training_set.classes, by_classes=by_classes)["score"]
        for (name,), part in dev.partition_by(BASELINE, as_dict=True, maintain_order=True).items()
    }
    tracking.log_once(record.run_id, {f"dev/baseline/{name.replace(' ', '_')}": one for name, one in scores.items()})
    return scores


def _raise_if_stopped(stop: StopRequest, lake: Lake, run: str, steps: int) -> None:
    if stop.is_set():
        kept = checkpoint_steps(lake, run)
        raise StoppedError(
            f"stopped by {stop.signal}",
            where=run,
            remedy=f"The same command resumes from step {kept[-1] if kept else 0} of {steps}",
        )


class _EpochLines:
    """One line per epoch, from the journal."""

    def __init__(self, plan: pa.Table, first: int) -> None:
        self._epochs = plan["epoch"].to_pylist()
        self.steps = len(self._epochs)
        self._first, self._started = first, time.monotonic()
        self._losses: list[float] = []
        self._best = float("-inf")

    def see(self, entry: Mapping[str, Any]) -> None:
        for row in entry["metrics"]:
            if "loss" in row:
                self._losses.append(row["loss"])
            if "dev_score" in row or "epoch" in row:
                self._say(int(row["step"]), row)
                self._losses = []

    def _say(self, step: int, row: Mapping[str, float]) -> None:
        score = row.get("dev_score")
        best = score is not None and score > self._best
        self._best = max(score or self._best, self._best)
        if step < self._first or not self.steps:
            return
        loss = sum(self._losses) / max(1, len(self._losses))
        per_step = (time.monotonic() - self._started) / (step + 1 - self._first)
        eta = per_step * (len(self._epochs) - step - 1)
        names = [name for name in (*DIMENSIONS, "mean") if f"dev_ccc_{name}" in row]
        scores = " ".join(f"{name} {row[f'dev_ccc_{name}']:.3f}" for name in names)
        if "dev_uar" in row:
            scores = f"{scores} UAR {row['dev_uar']:.3f}".strip()
        mark = " *" if best else ""
        epoch = f"epoch {self._epochs[step] + 1}/{self._epochs[-1] + 1}"
        told = "no dev split" if score is None else f"dev CCC {scores}{mark}"
        message(f"{epoch}  loss {loss:.3f}  {told}  {eta:.0f} s to go")


def render(result: TrainResult) -> RenderableType:
    """The result as it is printed."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.dev.items() if name != "score")
    if result.reused:
        how = "was finished before (--fresh trains again)"
    else:
        went_on = "" if result.resumed_at is None else f", continued from step {result.resumed_at}"
        how = f"took {result.seconds:.0f} s for {result.steps} steps{went_on}"
    alias = f", alias {result.alias}" if result.alias else ""
    judged = f" {NOT_JUDGED}" if result.alias == CHAMPION else ""
    baselines = "".join(f", {name} {score:.3f}" for name, score in result.baselines.items())
    ahead = [name for name, score in result.baselines.items() if score >= result.dev["score"]]
    best = (
        f"Best on dev after epoch {result.best_epoch + 1}: {scores}."
        if scores
        else "The last epoch counts: no dev split."
    )
    beaten = f" It does not beat the {' or the '.join(ahead)}." if ahead else ""
    compared = f"Score on dev: {result.dev['score']:.3f}{baselines}.{beaten}\n" if result.baselines else ""
    return Text(
        f"Run {result.run} {how}.\n"
        f"{best}\n"
        f"{compared}"
        f"Version {result.version} of {result.model_name}{alias} (MLflow run {result.run_id}).{judged}"
    )
