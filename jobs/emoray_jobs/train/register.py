"""From a finished training to a registered model version: bundle, conformal half widths, model card, alias."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import emoray
from emoray.evaluation import conformal
from emoray.evaluation.summary import LEVELS
from emoray.models.build import build
from emoray.models.config import ModelConfig
from emoray.registry import versions
from emoray.registry.card import model_card
from emoray.registry.tracking import Tracking
from emoray.registry.versions import CHALLENGER, CHAMPION, Version
from emoray.scoring.bundle import open_bundle, save_bundle, text_read
from emoray.training.checkpoint import Checkpoint, load_trained_weights
from emoray.training.predict import summarise
from emoray.training.training_set import TrainingSet
from emoray_jobs.train.local import predict_levels
from emoray_jobs.train.run_spec import RunSpec

if TYPE_CHECKING:
    import polars as pl

    from emoray.stages.norms import Norms
    from emoray_jobs.config import Config


@dataclass(frozen=True)
class PreparedRun:
    """All that a training starts from, on the lake.

    Attributes:
        assignment: What the workers are told.
        training_set: The packed training set.
        plan_hash: Fingerprint of the batch plan.
        fingerprints: Fingerprints of the stages that the training set is made from.
        norms: The norms that they measured against.
    """

    assignment: RunSpec
    training_set: TrainingSet
    plan_hash: str
    fingerprints: dict[str, str]
    norms: Norms

    @property
    def hashes(self) -> dict[str, str]:
        """What identifies the run's inputs, as tags and on the model card."""
        return {
            "emoray.run": self.assignment.run,
            "emoray.training_set": self.assignment.training_set,
            "emoray.plan": self.plan_hash,
            "emoray.seed": str(self.assignment.train.seed),
            "emoray.commit": commit() or f"release {metadata.version('emoray')}",
        }


def levels_of(config: ModelConfig) -> tuple[str, ...]:
    """Semantic levels at which a model is judged: sound alone where it reads no text."""
    return tuple(LEVELS) if text_read(config) else ("audio",)


def parameters(config: Config) -> dict[str, Any]:
    """What a run logs as its parameters: what makes its result, of the corpus only the kind in use, and its launch."""
    sections = config.model_dump(mode="json", include={"corpus", "annotate", "model", "train", "launch"})
    sections["corpus"] = {"name": config.corpus.name, config.corpus.kind: sections["corpus"][config.corpus.kind]}
    return sections


def begin_run(
    tracking: Tracking,
    config: Config,
    prepared: PreparedRun,
    *,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Make the MLflow run of a training, with its parameters, tags and dataset.

    Args:
        tracking: The store.
        config: The jobs' configuration.
        prepared: What the training starts from.
        name: What the run is called; the name of its folder if left out.
        tags: Further tags.

    Returns:
        Its id.
    """
    tags = {**prepared.hashes, **(tags or {})}
    run_id = tracking.start_run(name or prepared.assignment.run, params=parameters(config), tags=tags)
    frame = prepared.training_set.frame.drop("duration_s")
    corpus = config.corpus.name
    tracking.log_dataset(
        run_id, frame, name=corpus, source=f"{config.lake.root}/utterances/{corpus}", context="training"
    )
    return run_id


def register(
    tracking: Tracking, config: Config, prepared: PreparedRun, checkpoint: Checkpoint, run_id: str, *, champion: bool
) -> tuple[Version, str]:
    """Make the version of a finished training: the weights of its best epoch and all that they were fitted with.

    A version that a killed call registered already is taken over.

    Args:
        tracking: The store.
        config: The jobs' configuration.
        prepared: What the training started from.
        checkpoint: Its last checkpoint.
        run_id: Its MLflow run.
        champion: Make it champion if there is none yet.

    Returns:
        The version and its alias.
    """
    made = next((one for one in reversed(versions.all_versions(tracking)) if one.run_id == run_id), None)
    if made is None:
        with tempfile.TemporaryDirectory(prefix="emoray-bundle-") as work:
            folder, dev = _bundle(Path(work) / "bundle", config, prepared, checkpoint)
            card = model_card(
                open_bundle(folder),
                title=f"{tracking.model_name}: {config.model.name} on {config.corpus.name}",
                corpus=config.corpus.name,
                facts={"MLflow run": run_id, **prepared.hashes},
                synthetic=config.corpus.kind == "synthetic",
            )
            made = versions.log_bundle(tracking, run_id, folder, card=card, tags=prepared.hashes)
        tracking.log_metrics(run_id, dev, step=checkpoint.step)
    present = versions.find_alias(tracking, CHAMPION)
    if present is not None and present.version == made.version:
        return made, CHAMPION
    alias = CHAMPION if champion and present is None else CHALLENGER
    versions.set_alias(tracking, alias, made)
    return made, alias


def _bundle(
    folder: Path, config: Config, prepared: PreparedRun, checkpoint: Checkpoint
) -> tuple[Path, dict[str, float]]:
    model = build(config.model)
    assert checkpoint.best is not None, "a finished run has a best epoch"
    load_trained_weights(model, checkpoint.best)
    training_set = prepared.training_set
    frames = predict_levels(model, training_set, training_set.ids("dev"), levels_of(config.model), config.launch)
    metrics = {
        f"dev/{level}/{name}": value
        for level, frame in frames.items()
        for name, value in summarise(frame, training_set.classes).items()
        if name != "score"
    }
    half_widths: conformal.HalfWidths = {}
    for frame in frames.values():
        half_widths |= conformal.fit(frame, config.evaluate.conformal_level)
    save_bundle(
        folder,
        model=model,
        config=config.model,
        annotate=config.annotate,
        fingerprints=prepared.fingerprints,
        norms=prepared.norms,
        half_widths=half_widths,
        conformal_level=config.evaluate.conformal_level,
        scale=_scale(training_set.frame),
        metrics=metrics,
    )
    return folder, metrics


def _scale(frame: pl.DataFrame) -> tuple[float, float] | None:
    """The corpus's scale, None where it has none or several."""
    pairs = frame.select("scale_min", "scale_max").drop_nulls().unique()
    return (float(pairs["scale_min"][0]), float(pairs["scale_max"][0])) if pairs.height == 1 else None


def commit() -> str | None:
    """Git commit of the checkout that runs, `-dirty` if it was changed; None for an installed package."""
    folder = Path(emoray.__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
