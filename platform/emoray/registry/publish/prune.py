"""Which versions, logged models and shared files nobody needs any more, and their removal.

A version is kept if it has an alias, ever was champion (rollback may go there), is among the newest, or is the source
of a copy in another registered model. Whatever is interrupted is found again: a logged model counts as left over once
all versions that hung on it are gone, whoever deleted them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from emoray.registry.champion import champions
from emoray.registry.history import History, ever_champion
from emoray.registry.publish import shared
from emoray.registry.tracking import Tracking
from emoray.registry.versions import Version, all_versions, local_path, version_of

#: Shared files of versions that are being registered now belong to no version yet: younger ones stay.
LEAST_AGE_S = 86_400.0


@dataclass(frozen=True)
class Plan:
    """What may go.

    Attributes:
        kept: Versions that stay, and why.
        versions: Versions to delete.
        models: Logged models whose versions are all deleted, or will be.
        files: Runs of shared files that no remaining version names.
    """

    kept: tuple[tuple[Version, str], ...]
    versions: tuple[Version, ...]
    models: tuple[LoggedModel, ...]
    files: tuple[Run, ...]


def plan(tracking: Tracking, keep: int) -> Plan:
    """See what may go, and change nothing.

    Args:
        keep: How many of the newest versions stay in any case.
    """
    own, every = all_versions(tracking), _of_all_models(tracking)
    reasons = _reasons(tracking, own, every, keep)
    doomed = tuple(one for one in own if one.uri not in reasons)
    gone = {one.uri for one in doomed}
    remaining = [one for one in every if one.uri not in gone]
    kept = tuple((one, reasons[one.uri]) for one in own if one.uri in reasons)
    return Plan(kept, doomed, tuple(_left_models(tracking, remaining)), tuple(_left_files(tracking, remaining)))


def carry_out(tracking: Tracking, plan: Plan) -> None:
    """Delete what a plan says: first the versions, so that nobody finds one whose files are going."""
    client = tracking.client
    for version in plan.versions:
        client.delete_model_version(version.name, version.version)
    for model in plan.models:
        _delete_files(model.artifact_location)
        client.delete_logged_model(model.model_id)
    for run in plan.files:
        client.delete_run(run.info.run_id)
        _delete_files(run.info.artifact_uri)


def size_bytes(address: str) -> int | None:
    """Size of an artifact folder on this machine's disk; None for one elsewhere."""
    folder = local_path(address)
    if folder is None:
        return None
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _of_all_models(tracking: Tracking) -> list[Version]:
    found, token = [], None
    while True:
        page = tracking.client.search_model_versions(max_results=1000, page_token=token)
        found += [version_of(one) for one in page]
        token = page.token
        if not token:
            return found


def _reasons(tracking: Tracking, own: list[Version], every: list[Version], keep: int) -> dict[str, str]:
    """Address of a version → why it stays."""
    found = {one.uri: "among the newest" for one in own[len(own) - keep :]} if keep else {}
    copied = {one.source for one in every if one.name != tracking.model_name}
    found |= {one.uri: "copied into another registered model" for one in own if one.uri in copied}
    line = champions(tracking)
    found |= {one.uri: "led to the champion" for one in own if one.version in line}
    entries = ever_champion(History(tracking).entries())
    found |= {one.uri: "was champion" for one in own if any(held.is_version(one) for held in entries)}
    model = tracking.client.get_registered_model(tracking.model_name) if own else None
    named = {str(version): alias for alias, version in (model.aliases if model else {}).items()}
    return found | {one.uri: named[one.version] for one in own if one.version in named}


def _left_models(tracking: Tracking, remaining: list[Version]) -> list[LoggedModel]:
    """Logged models of the configured registered model that no remaining version hangs on."""
    needed = {one.model_id for one in remaining}
    there = {(one.name, one.version) for one in remaining}
    found, token = [], None
    while True:
        page = tracking.client.search_logged_models([tracking.experiment_id], page_token=token)
        for model in page:
            named = [
                (one["name"], str(one["version"])) for one in json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
            ]
            ours = any(name == tracking.model_name for name, _ in named)
            if ours and model.model_id not in needed and not there & set(named):
                found.append(model)
        token = page.token
        if not token:
            return found


def _left_files(tracking: Tracking, remaining: list[Version]) -> list[Run]:
    experiment = tracking.client.get_experiment_by_name(shared.EXPERIMENT)
    if experiment is None:
        return []
    needed = {hashed for one in remaining for hashed in one.tags.get(shared.HASH, "").split(",")}
    runs = tracking.client.search_runs([experiment.experiment_id], "", ViewType.ACTIVE_ONLY, max_results=1000)
    latest_ms = 1000 * (time.time() - LEAST_AGE_S)
    return [run for run in runs if run.data.tags.get(shared.HASH) not in needed and run.info.start_time < latest_ms]


def _delete_files(address: str) -> None:
    folder = local_path(address)
    if folder is not None and not folder.is_dir():
        return
    with contextlib.suppress(FileNotFoundError):
        get_artifact_repository(address).delete_artifacts()
    if folder is not None:
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    """Remove a folder that has become empty, and the one of the run or model around it."""
    for one in (folder, folder.parent):
        if one.is_dir() and not any(one.iterdir()):
            os.rmdir(one)
