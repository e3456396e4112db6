"""reproduce: train a run's model again, from what the run recorded, and compare the figures on dev.

On CPUs, with the same data, code and packages, they are equal. It registers nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.entities import Run
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from emoray.config import BASE_PRESET, merge, read_preset, validate
from emoray.errors import LakeError, RegistryError
from emoray.lake.tables import Lake
from emoray.registry import provenance, versions
from emoray.registry.tracking import Tracking, connect
from emoray.stages.norms import Norms
from emoray.training.checkpoint import Checkpoint
from emoray.training.data.pack import is_sealed
from emoray.training.data.training_set import TrainingSet
from emoray_jobs.train.inputs import load_inputs, prepare_run, training_set_now
from emoray_jobs.train.job import train_to_the_end
from emoray_jobs.train.register import PreparedRun, TrainingInputs, begin_run, dev_results
from emoray_jobs.train.run_record import RunRecord
from emoray_jobs.train.run_setup import read_setup

if TYPE_CHECKING:
    from emoray.corpora import CorpusConfig
    from emoray.models.config import ModelConfig
    from emoray.stages.config import AnnotateConfig
    from emoray.training.config import LaunchConfig
    from emoray_jobs.config import ClusterConfig, Config

#: Tags of the new run: the run that it repeats, and whether its figures are equal.
REPRODUCES, OUTCOME = "emoray.reproduces", "emoray.reproduced"
#: Figures further apart than this differ.
TOLERANCE = 1e-6
#: Packages that are named one by one where they differ.
NAMED = 12


@dataclass(frozen=True)
class Reproduction:
    """A run and its repetition.

    Attributes:
        original: MLflow run that was repeated.
        run_id: MLflow run of the repetition.
        differences: What is known to differ: of code, packages and data.
        figures: Name of a dev figure → what it was, and what it is now.
        steps: Steps that were trained.
    """

    original: str
    run_id: str
    differences: tuple[str, ...]
    figures: dict[str, tuple[float | None, float | None]]
    steps: int

    @property
    def apart(self) -> dict[str, tuple[float | None, float | None]]:
        """Figures that differ, or that one of the two lacks."""
        return {
            name: (then, now)
            for name, (then, now) in self.figures.items()
            if then is None or now is None or abs(then - now) > TOLERANCE
        }

    @property
    def equal(self) -> bool:
        """Whether all figures are equal."""
        return not self.apart


def run(config: Config, *, reference: str) -> Reproduction:
    """Train a run's model again and compare. Lake, tracking store and cluster are the caller's, the rest is the run's.

    After a kill the same command resumes.

    Args:
        reference: Id of a run of `emoray train`; or a version, whose run it is: number, alias or address.

    Raises:
        RegistryError: There is no such run (`no_such_version`), it recorded no configuration (`no_setup`) or has no dev
            figures (`nothing_to_compare`).
        LakeError: The training set is gone, and so is the corpus.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    original = _original(tracking, reference)
    before = _dev_figures(original)
    recorded, packages = read_setup(tracking, original.info.run_id)
    here = config.model_dump(mode="json", include={"lake", "tracking", "cluster"})
    own = validate(type(config), merge(read_preset(BASE_PRESET), recorded) | here)
    with contextlib.ExitStack() as stack:
        data, differences = _data(
            lake,
            own.cluster,
            original.data.tags.get("emoray.training_set", ""),
            stack,
            corpus=own.corpus,
            annotate=own.annotate,
            model=own.model,
            launch=own.launch,
        )
        prepared = prepare_run(lake, data, own.model, own.train, own.launch)
        differences = _code(original, packages) + differences + _plan(original, prepared)
        spec = dataclasses.replace(prepared.assignment, run=f"{prepared.assignment.run}-again")
        prepared = dataclasses.replace(prepared, assignment=spec)
        record = RunRecord(lake, spec.run, tracking)
        if not record.has_begun:
            tags = {REPRODUCES: original.info.run_id}
            record.begin(begin_run(tracking, prepared, verb="reproduce", tags=tags))
        train_to_the_end(lake, own.cluster, prepared, record, tracking, stack)
        checkpoint = Checkpoint.latest(lake, spec.run)
        assert checkpoint is not None, "training ends with a checkpoint"
        _, _, after = dev_results(prepared, checkpoint)
    tracking.log_once(record.run_id, after, checkpoint.step, dataset=tracking.dataset(record.run_id, "dev"))
    figures = {name: (before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())}
    found = Reproduction(original.info.run_id, record.run_id, tuple(differences), figures, checkpoint.step)
    tracking.set_tags(record.run_id, {OUTCOME: "equal" if found.equal else "different"})
    record.forget()
    return found


def _original(tracking: Tracking, reference: str) -> Run:
    if re.fullmatch(r"[0-9a-f]{32}", reference):
        if not tracking.has_run(reference):
            raise RegistryError(
                f"there is no run {reference}",
                where=tracking.uri,
                remedy="Copy the id from MLflow, or name a version",
                kind="no_such_run",
            )
        return tracking.client.get_run(reference)
    return tracking.client.get_run(versions.resolve(tracking, reference).run_id)


def _dev_figures(run: Run) -> dict[str, float]:
    found = {
        name: value
        for name, value in run.data.metrics.items()
        if name.startswith("dev/") and not name.startswith("dev/baseline/")
    }
    if not found:
        raise RegistryError(
            f"run {run.info.run_id} has no figures on dev",
            remedy="Name a finished run of emoray train on a corpus with a dev split",
            kind="nothing_to_compare",
        )
    return found


def _data(
    lake: Lake,
    cluster: ClusterConfig,
    recorded: str,
    stack: contextlib.ExitStack,
    *,
    corpus: CorpusConfig,
    annotate: AnnotateConfig,
    model: ModelConfig,
    launch: LaunchConfig,
) -> tuple[TrainingInputs, list[str]]:
    """The recorded training set, as it was packed where it is still there, and how the corpus differs."""
    try:
        now = training_set_now(lake, corpus, annotate, model)
        said = [] if now == recorded else [f"the corpus: its training set is {now} today, it was {recorded}"]
    except LakeError as error:
        said = [f"the corpus: {error.what}"]
    if is_sealed(lake, recorded):
        opened = TrainingSet.open(lake, recorded, launch.cache_dir, model.classes)
        if said:
            said.append(f"trained on the packed training set of then, {recorded}")
        return TrainingInputs(corpus, annotate, opened, (), Norms.unfitted()), said
    data = load_inputs(lake, cluster, stack, corpus=corpus, annotate=annotate, model=model, launch=launch)
    return data, said


def _code(original: Run, packages: Sequence[str]) -> list[str]:
    """How commit and packages differ."""
    then, now = original.data.tags.get("emoray.commit", "unknown"), provenance.release()
    said = [] if then == now else [f"the code: {now} today, it was {then}"]
    if then == now and now.endswith("-dirty"):
        said.append(f"the code, perhaps: {now} has changes that are not committed, then and now")
    was, is_now = (dict(_parts(one) for one in every) for every in (packages, provenance.packages()))
    changed = [
        f"{name} {was.get(name, 'absent')} → {is_now.get(name, 'absent')}"
        for name in sorted(was.keys() | is_now.keys())
        if was.get(name) != is_now.get(name)
    ]
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        said.append(f"packages: {', '.join(changed[:NAMED])}{more}")
    return said


def _parts(requirement: str) -> tuple[str, str]:
    name, _, version = requirement.partition("==")
    return name, version


def _plan(original: Run, prepared: PreparedRun) -> list[str]:
    then: Mapping[str, str] = original.data.tags
    now = prepared.hashes
    names = {"emoray.training_set": "the training set", "emoray.plan": "the batches", "emoray.seed": "the seed"}
    return [
        f"{name}: {now[tag]} today, it was {then.get(tag, 'unknown')}"
        for tag, name in names.items()
        if now[tag] != then.get(tag)
    ]


def render(result: Reproduction) -> RenderableType:
    """The comparison as it is printed."""
    lines = [f"Run {result.original} trained again ({result.steps} steps) as MLflow run {result.run_id}."]
    lines += [f"Differs from then: {one}." for one in result.differences] or ["Same code, packages, data and seed."]
    if result.equal:
        return Text("\n".join([*lines, f"Equal: all {len(result.figures)} figures on dev."]))
    table = Table()
    for column in ("figure on dev", "then", "now"):
        table.add_column(column, justify="left" if column.startswith("figure") else "right")
    for name, pair in result.apart.items():
        table.add_row(name, *("–" if value is None else f"{value:.6f}" for value in pair))
    end = f"Not equal: {len(result.apart)} of {len(result.figures)} figures on dev differ by more than {TOLERANCE:g}."
    return Group(Text("\n".join(lines)), table, Text(end))
