"""Files that versions share, in MLflow: each once, by hash, as artifacts of a run (docs/decisions/0036).

The runs lie in an experiment of their own. Whoever reaches the tracking store can fetch them, wherever its artifacts
are: on a disk, behind the server, on S3.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from emoray.errors import RegistryError
from emoray.lake.atomic import atomic_folder
from emoray.registry import provenance
from emoray.registry.reach import patient
from emoray.scoring.shared_files import (
    FROZEN,
    FROZEN_WEIGHTS,
    SHARED,
    TEXT_ENCODER,
    cache_folder,
    folder_hash,
    installed,
    references,
)
from emoray.stages.model_files.weights import revision

if TYPE_CHECKING:
    from torch import nn

EXPERIMENT = "emoray shared files"
#: Tag of a run that holds files, and of a version that needs them (several: with commas between): their hash.
HASH = "emoray.files"
#: Files of less stay in each version.
LEAST_BYTES = 2**20
_FOLDER = "files"
_NOTE = "Files that model versions share ({name}). Versions with the tag `emoray.files` cannot be loaded without them."


def share(client: mlflow.MlflowClient, bundle: Path, model: nn.Module, root: str | None) -> list[str]:
    """Move what other versions have too out of a bundle's folder, into MLflow, unless it is there already.

    Args:
        bundle: Folder to change: a copy of the bundle.
        model: The bundle's model; its frozen weights are shared.
        root: Artifact location of the experiment, where it has to be made.

    Returns:
        Hashes of what the bundle refers to now.
    """
    split_frozen(bundle, model)
    found: dict[str, Mapping[str, Any]] = {}
    for name in (TEXT_ENCODER, FROZEN):
        folder = bundle / name
        size = sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
        if size < LEAST_BYTES:
            continue
        reference: dict[str, Any] = {"hash": folder_hash(folder), "bytes": size}
        if name == TEXT_ENCODER:
            reference["revision"] = revision(str(folder))
        _store(client, name, reference["hash"], folder, root)
        shutil.rmtree(folder)
        found[name] = reference
    if found:
        (bundle / SHARED).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return [str(one["hash"]) for one in found.values()]


def split_frozen(bundle: Path, model: nn.Module) -> None:
    """Move the weights that training left as they were into a folder of their own, if they are large."""
    import safetensors.torch

    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    path = bundle / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    apart = {name: tensor for name, tensor in weights.items() if name in frozen}
    if sum(tensor.nbytes for tensor in apart.values()) < LEAST_BYTES:
        return
    (bundle / FROZEN).mkdir()
    safetensors.torch.save_file(apart, bundle / FROZEN / FROZEN_WEIGHTS)
    path.unlink()  # it may be a hard link
    safetensors.torch.save_file({name: tensor for name, tensor in weights.items() if name not in frozen}, path)


def ensure(bundle: Path, client: mlflow.MlflowClient | None = None) -> None:
    """Fetch the files that a bundle refers to, unless they are on this machine.

    Args:
        client: Of the tracking store; by default of the one that MLflow is set to.

    Raises:
        RegistryError: They are nowhere (`shared_files_missing`), or were changed (`changed_files`).
    """
    for name, reference in references(bundle).items():
        if (bundle / name).is_dir() or installed(reference) is not None:
            continue
        client = client or mlflow.MlflowClient()
        run = find(client, reference["hash"])
        if run is None:
            raise RegistryError(
                f"the tracking store has no files with the hash {reference['hash']}, which the version's {name} is",
                where=client.tracking_uri,
                remedy=f"Restore the run in MLflow's experiment {EXPERIMENT!r}. Where a version must load without the"
                " tracking store, train it with tracking.share_files=false",
                kind="shared_files_missing",
            )
        with atomic_folder(cache_folder(reference["hash"])) as draft:
            with patient():
                folder = Path(client.download_artifacts(run.info.run_id, _FOLDER, draft))
            if folder_hash(folder) != reference["hash"]:
                raise RegistryError(
                    f"the files of {name} are not those that the version was registered with",
                    where=f"{run.info.artifact_uri}/{_FOLDER}",
                    remedy="Restore them",
                    kind="changed_files",
                )
            for path in folder.iterdir():
                path.rename(Path(draft) / path.name)
            folder.rmdir()


def find(client: mlflow.MlflowClient, hashed: str) -> Run | None:
    """The run that holds the files of a hash; None if there is none, or none that is whole."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    wanted = f"tags.`{HASH}` = '{hashed}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment.experiment_id], wanted, ViewType.ACTIVE_ONLY, max_results=1)
    return found[0] if found else None


def _store(client: mlflow.MlflowClient, name: str, hashed: str, folder: Path, root: str | None) -> None:
    """Store a folder, unless it is there."""
    if find(client, hashed) is not None:
        return
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            client.create_experiment(EXPERIMENT, artifact_location=root)
        except MlflowException:  # another process was faster, or it is a real failure
            if client.get_experiment_by_name(EXPERIMENT) is None:
                raise
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment.experiment_id)
    tags = {**provenance.tags(), HASH: hashed, MLFLOW_RUN_NOTE: _NOTE.format(name=name)}
    run = client.create_run(experiment.experiment_id, run_name=f"{name} {hashed[:8]}", tags=tags)
    with patient():
        client.log_artifacts(run.info.run_id, str(folder), _FOLDER)
    client.set_terminated(run.info.run_id)  # only a finished one counts
