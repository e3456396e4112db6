"""From a finished training to a registered model version: bundle, conformal half widths, model card, alias."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from torch import nn

from emoray.digest import digest
from emoray.evaluation import conformal
from emoray.evaluation.summary import LEVELS
from emoray.models.batch import LEVELS as SETS
from emoray.models.batch import level_of
from emoray.models.build import OVER_DIALOGUES, build
from emoray.models.config import ModelConfig
from emoray.registry import promotion, provenance, versions
from emoray.registry.card import model_card
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import Tracking
from emoray.registry.versions import CHALLENGER, CHAMPION, Version
from emoray.scoring.bundle import level_name, open_bundle, save_bundle, text_read
from emoray.training.checkpoint import Checkpoint, load_trained_weights
from emoray.training.data.training_set import TrainingSet
from emoray.training.predict import summarise
from emoray_jobs.annotate.state import ANNOTATIONS
from emoray_jobs.train.local import predict_levels
from emoray_jobs.train.run_spec import RunSpec

if TYPE_CHECKING:
    from emoray.corpora import CorpusConfig
    from emoray.stages.conditions import FittedCondition
    from emoray.stages.config import AnnotateConfig
    from emoray.stages.norms import Norms


#: Tag of a training's run: the run of annotate that its vectors come from.
ANNOTATE_RUN = "emoray.annotate_run"


@dataclass(frozen=True)
class TrainingInputs:
    """What the configured model can be trained on.

    Attributes:
        annotate: Options of the stages.
        conditions: The conditions whose text vectors it has, with the fingerprints of their stages.
        norms: The norms that the first one's stages measured against.
    """

    corpus: CorpusConfig
    annotate: AnnotateConfig
    training_set: TrainingSet
    conditions: tuple[FittedCondition, ...]
    norms: Norms


@dataclass(frozen=True)
class PreparedRun:
    """All that a training starts from, on the lake.

    Attributes:
        assignment: What the workers are told.
        data: Its inputs, with the splits of its fold if there is one.
    """

    assignment: RunSpec
    data: TrainingInputs
    plan_hash: str

    @property
    def hashes(self) -> dict[str, str]:
        """What identifies the run's inputs, as tags and on the model card."""
        return {
            "emoray.run": self.assignment.run,
            "emoray.training_set": self.assignment.training_set,
            "emoray.plan": self.plan_hash,
            "emoray.seed": str(self.assignment.train.seed),
            "emoray.commit": provenance.release(),
        }

    @property
    def labels(self) -> dict[str, str]:
        """What the run is of, as tags."""
        scale = _scale(self.data.training_set.frame)
        return {
            "emoray.corpus": self.data.corpus.name,
            "emoray.model": self.assignment.model.name,
            "emoray.scale": "unknown" if scale is None else "{:g} to {:g}".format(*scale),
        }


def levels_of(config: ModelConfig, conditions: Sequence[str]) -> tuple[str, ...]:
    """Semantic levels at which a model is judged, from the least input to the most: sound alone where it reads no text.

    With several conditions, each level that depends on them is one level per condition, for example
    `full/unknown/reference`; the first condition comes last.
    """
    return _under_each(config, conditions, list(LEVELS) if text_read(config) else ["audio"])


def interval_levels(config: ModelConfig, conditions: Sequence[str]) -> tuple[str, ...]:
    """Semantic levels that scores have intervals of: those of `levels_of`, and clips without an emphasised word."""
    read = text_read(config)
    others = [name for name in ("gs", "gs+es") if level_of(SETS[name], read) == name]
    return (*levels_of(config, conditions), *_under_each(config, conditions, others))


def _under_each(config: ModelConfig, conditions: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
    found = dict.fromkeys(
        level_name(config, conditions, level, one) for one in reversed(conditions) for level in levels
    )
    return tuple(sorted(found, key=lambda name: name.partition("/")[0] != "audio"))


def parameters(prepared: PreparedRun) -> dict[str, Any]:
    """What a run logs as its parameters: what makes its result, of the corpus only the kind in use, and its launch."""
    corpus, spec = prepared.data.corpus, prepared.assignment
    return {
        "corpus": {"name": corpus.name, corpus.kind: corpus.model_dump(mode="json")[corpus.kind]},
        "annotate": prepared.data.annotate.model_dump(mode="json"),
        "model": spec.model.model_dump(mode="json"),
        "train": spec.train.model_dump(mode="json"),
        "launch": spec.launch.model_dump(mode="json"),
    }


def begin_run(
    tracking: Tracking,
    prepared: PreparedRun,
    *,
    verb: str,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Make the MLflow run of a training, with its parameters, tags and each split as a dataset; returns its id.

    It is called `name`, or like its folder; `verb` is the command that trains.
    """
    tags = {**prepared.hashes, **prepared.labels, **(tags or {})}
    annotated = annotate_run(tracking, prepared.data)
    if annotated is not None:
        tags[ANNOTATE_RUN] = annotated
    run_id = tracking.start_run(name or prepared.assignment.run, verb=verb, params=parameters(prepared), tags=tags)
    frame = prepared.data.training_set.frame.drop("duration_s")
    corpus, root = prepared.data.corpus.name, prepared.assignment.lake.root
    for split in sorted(frame["split"].drop_nulls().unique(), key=lambda one: (one != "train", one)):
        tracking.log_dataset(
            run_id,
            frame.filter(pl.col("split") == split),
            name=f"{corpus} {split}",
            source=f"{root}/utterances/{corpus}",
            context="training" if split == "train" else split,
        )
    return run_id


def annotate_run(tracking: Tracking, data: TrainingInputs) -> str | None:
    """The last annotate run that computed the corpus's annotations of today; None where none was tracked."""
    if not data.conditions:
        return None
    annotations = digest(data.conditions[0].fingerprints)
    wanted = f"tags.`emoray.corpus` = '{data.corpus.name}' and tags.`{ANNOTATIONS}` = '{annotations}'"
    found = tracking.client.search_runs([tracking.experiment_id], wanted, order_by=["start_time DESC"], max_results=1)
    return str(found[0].info.run_id) if found else None


def register(
    tracking: Tracking,
    prepared: PreparedRun,
    checkpoint: Checkpoint,
    run_id: str,
    *,
    conformal_level: float,
    champion: bool,
) -> tuple[Version, str]:
    """Make the version of a finished training: the weights of its best epoch and all that they were fitted with.

    A version that a killed call registered already is taken over.

    Args:
        conformal_level: Share of clips that its intervals should cover.
        champion: Make it champion, without the gate, if the model never had one.

    Returns:
        The version and its alias.
    """
    made = next((one for one in reversed(versions.all_versions(tracking)) if one.run_id == run_id), None)
    if made is None:
        with tempfile.TemporaryDirectory(prefix="emoray-bundle-") as work:
            folder, dev = _bundle(Path(work) / "bundle", prepared, checkpoint, conformal_level)
            card = model_card(
                open_bundle(folder),
                title=f"{tracking.model_name}: {prepared.assignment.model.name} on {prepared.data.corpus.name}",
                corpus=prepared.data.corpus.name,
                facts={"MLflow run": run_id, **prepared.hashes},
                synthetic=prepared.data.corpus.kind == "synthetic",
            )
            made = log_bundle(
                tracking,
                run_id,
                folder,
                card=card,
                tags={**prepared.hashes, **prepared.labels, **provenance.tags("train"), **_scores(dev)},
                metrics=dev,
                dataset=tracking.dataset(run_id, "dev"),
                step=checkpoint.step,
            )
    present = versions.find_alias(tracking, CHAMPION)
    if present is not None and present.uri == made.uri:
        return made, CHAMPION
    if champion and promotion.crown_first(tracking, made, "emoray train --champion"):
        return made, CHAMPION
    versions.set_alias(tracking, CHALLENGER, made)
    return made, CHALLENGER


def dev_results(
    prepared: PreparedRun, checkpoint: Checkpoint
) -> tuple[nn.Module, dict[str, pl.DataFrame], dict[str, float]]:
    """The model with the weights of the best epoch, what it predicts for dev at each level, and its figures there."""
    spec, training_set = prepared.assignment, prepared.data.training_set
    model = build(spec.model)
    assert checkpoint.best is not None, "a finished run has a best epoch"
    load_trained_weights(model, checkpoint.best)
    levels, dev = levels_of(spec.model, training_set.conditions), training_set.ids("dev")
    frames = predict_levels(model, training_set, dev, levels if dev else (), spec.launch)
    metrics = {
        f"dev/{level}/{name}": value
        for level, frame in frames.items()
        for name, value in summarise(frame, training_set.classes).items()
        if name != "score"
    }
    return model, frames, metrics


def _bundle(
    folder: Path, prepared: PreparedRun, checkpoint: Checkpoint, conformal_level: float
) -> tuple[Path, dict[str, float]]:
    spec, training_set = prepared.assignment, prepared.data.training_set
    model, frames, metrics = dev_results(prepared, checkpoint)
    dev = training_set.ids("dev")
    _, calibrating = training_set.divide_dev(dev, dialogues=isinstance(model, OVER_DIALOGUES))
    half_widths: conformal.HalfWidths = {}
    every = interval_levels(spec.model, training_set.conditions) if dev else ()
    others = [name for name in every if name not in frames]
    for frame in (frames | predict_levels(model, training_set, calibrating, others, spec.launch)).values():
        half_widths |= conformal.fit(frame.filter(pl.col("utterance_id").is_in(calibrating)), conformal_level)
    save_bundle(
        folder,
        model=model,
        config=spec.model,
        annotate=prepared.data.annotate,
        conditions=prepared.data.conditions,
        norms=prepared.data.norms,
        half_widths=half_widths,
        conformal_level=conformal_level,
        scale=_scale(training_set.frame),
        dimensional=spec.train.objective.ccc > 0,
        metrics=metrics,
    )
    return folder, metrics


def _scale(frame: pl.DataFrame) -> tuple[float, float] | None:
    """The corpus's scale, None where it has none or several."""
    pairs = frame.select("scale_min", "scale_max").drop_nulls().unique()
    return (float(pairs["scale_min"][0]), float(pairs["scale_max"][0])) if pairs.height == 1 else None


def _scores(dev: Mapping[str, float]) -> dict[str, str]:
    """The dev figures at the fullest level, as tags of the version: its page shows tags, not metrics."""
    last = list(dev)[-1].rpartition("/")[0] if dev else ""
    return {f"dev.{name.rpartition('/')[2]}": f"{value:.4f}" for name, value in dev.items() if name.startswith(last)}
