"""From a bundle to a registered version: an MLflow pyfunc with its code, requirements, signature, card and example."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelStatus
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE

import emoray
from emoray.audio import moonshine
from emoray.registry.publish import example, shared
from emoray.registry.reach import is_lost, patient
from emoray.registry.tracking import Dataset, Tracking
from emoray.registry.versions import Version, version_of

if TYPE_CHECKING:
    from emoray.models.config import ModelConfig
    from emoray.scoring.bundle import Bundle

CARD = "model_card.md"
#: MLflow's limit of a version's description.
DESCRIPTION_CHARACTERS = 5000

#: Description of a registered model.
ABOUT = """\
Valence, arousal and dominance from speech, by emoray. The alias `champion` is what the service loads, `challenger` the
newest version that may replace it. `emoray history` and the experiment `{model} history` say what was decided and why.
"""

#: Packages that loading and scoring any version needs; each is pinned to the version installed here.
REQUIREMENTS = (
    "mlflow",
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "tenacity",
    "fsspec",
    "s3fs",
    "soundfile",
    "soxr",
    "pyworld-prebuilt",
    "pocketsphinx",
)


def log_bundle(
    tracking: Tracking,
    run_id: str,
    bundle: str | Path,
    *,
    card: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
    dataset: Dataset | None = None,
    step: int = 0,
) -> Version:
    """Log a bundle to its run as an MLflow pyfunc and register it as a new version, without an alias.

    The version contains the bundle, the source of the package `emoray` and pinned requirements: a process without this
    repository can load it. A logged model that a killed call left behind is registered as it is.

    Args:
        card: Markdown (`emoray.registry.card`), also the description of run and version, its head that of the logged
            model.
        tags: Configuration and data hashes, seeds, git commit …
        metrics: Figures of the bundle, for the pages of run and logged model.
        dataset: What they were measured on.
        step: Step of the run after which the bundle was made. MLflow gives the logged model all metrics of this step:
            of step 0, an untrained network's.

    Raises:
        RegistryError: The bundle cannot be opened (`bad_bundle`); nothing is registered then.
    """
    from emoray.scoring.scorer import load_bundle

    scorer = load_bundle(bundle)
    name = scorer.bundle.config.name
    model_id = _logged_before(tracking, run_id, name) or _log_model(
        tracking, run_id, bundle, scorer.bundle, card=card, step=step
    )
    files = tracking.client.get_logged_model(model_id).tags.get(shared.HASH)
    if files is not None:
        tags = {**tags, shared.HASH: files}
    tracking.log_once(run_id, metrics or {}, step, dataset=dataset, model_id=model_id)
    tracking.set_tags(run_id, {MLFLOW_RUN_NOTE: card})
    tracking.client.set_logged_model_tags(model_id, {MLFLOW_RUN_NOTE: _head(card), **tags})
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what it did
        made = mlflow.register_model(
            f"models:/{model_id}",
            tracking.model_name,
            tags={example.TAG: json.dumps(example.scores(scorer)), **{key: str(value) for key, value in tags.items()}},
        )
    tracking.client.update_model_version(made.name, made.version, description=_description(card))
    if not tracking.client.get_registered_model(made.name).description:
        tracking.client.update_registered_model(made.name, ABOUT.format(model=made.name))
    return version_of(tracking.client.get_model_version(made.name, made.version))


def pip_requirements(config: ModelConfig) -> list[str]:
    """Pinned requirements of a version of a model, without local build tags such as `+cpu`."""
    encoder, needed = config.encoder, list(REQUIREMENTS)
    if encoder.kind in ("moonshine", "moonshine_logmel"):
        needed += [moonshine.PACKAGE, "onnxruntime", "flatbuffers"]
    if encoder.kind == "ssl" and encoder.ssl.tuning == "lora":
        needed.append("peft")
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in needed]


def _log_model(tracking: Tracking, run_id: str, folder: str | Path, bundle: Bundle, *, card: str, step: int) -> str:
    """Log the MLflow model and return its id."""
    from emoray.registry.pyfunc import SIGNATURE, data_uri

    with tempfile.TemporaryDirectory(prefix="emoray-version-") as work:
        code = _source_without_caches(Path(work) / "code")
        card_path = Path(work) / CARD
        card_path.write_text(card, encoding="utf-8")
        staged = Path(work) / "bundle"
        _link_tree(Path(folder), staged)
        files: list[str] = []
        if tracking.share_files:
            root = tracking.client.get_experiment(tracking.experiment_id).artifact_location
            files = shared.share(tracking.client, staged, bundle.model, root)
        with _active(run_id), _without_bytecode(), patient():
            info = mlflow.pyfunc.log_model(
                name=bundle.config.name,
                python_model=str(Path(emoray.__file__).parent / "registry" / "model_script.py"),
                artifacts={"bundle": str(staged), "card": str(card_path)},
                code_paths=[str(code)],
                pip_requirements=pip_requirements(bundle.config),
                signature=SIGNATURE,
                model_config={"addresses": []},  # MLflow lets whoever loads the model change only keys that are there
                input_example=pd.DataFrame({"audio": [data_uri(example.wav())]}),
                step=step,
                tags={shared.HASH: ",".join(files)} if files else None,
            )
    return str(info.model_id)


def _logged_before(tracking: Tracking, run_id: str, name: str) -> str | None:
    """A whole logged model of the run that no version was made of: its call was killed in between."""
    experiment = tracking.client.get_run(run_id).info.experiment_id
    found = tracking.client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    whole = [one for one in found if one.name == name and one.status == LoggedModelStatus.READY]
    free = [one for one in whole if MLFLOW_MODEL_VERSIONS not in one.tags]
    return str(free[0].model_id) if free else None


def _description(card: str) -> str:
    """The card within MLflow's limit, whole lines."""
    if len(card) <= DESCRIPTION_CHARACTERS:
        return card
    more = f"\n\nThe rest is in the artifact {CARD}.\n"
    return card[: DESCRIPTION_CHARACTERS - len(more)].rpartition("\n")[0] + more


def _head(card: str) -> str:
    """The card before its first section: the page of a logged model has its metrics below the description."""
    head = card.partition("\n## ")[0].rstrip()
    return f"{head}\n\nThe whole card: artifact {CARD}.\n"


@contextlib.contextmanager
def _active(run_id: str) -> Iterator[None]:
    """Make a run MLflow's active one, which its `log_model` requires, and restore its status."""
    current = mlflow.active_run()
    if current is not None and current.info.run_id == run_id:
        yield
        return
    client = mlflow.MlflowClient()
    before = client.get_run(run_id).info.status
    try:
        with mlflow.start_run(run_id=run_id, nested=current is not None):
            yield
    except BaseException as error:
        if not is_lost(error):
            client.update_run(run_id, status=before)
        raise
    if before != "FINISHED":
        client.update_run(run_id, status=before)


@contextlib.contextmanager
def _without_bytecode() -> Iterator[None]:
    """Keep Python from writing bytecode: MLflow imports the model's code before it stores the folder."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _source_without_caches(target: Path) -> Path:
    """A copy of the installed package's source, without bytecode. Returns the package's folder."""
    source = Path(emoray.__file__).parent
    shutil.copytree(source, target / "emoray", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return target / "emoray"


def _link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links where the disk allows (MLflow copies it anyway), else by copies."""

    def link_or_copy(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copyfile(one, other)

    shutil.copytree(source, target, copy_function=link_or_copy)
