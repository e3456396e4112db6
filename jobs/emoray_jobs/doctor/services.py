"""Checks of storage and services: the lake, MLflow, the champion, the cluster and its token."""

from __future__ import annotations

import os
import stat
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Any

from emoray.errors import ConfigError, ServiceError
from emoray.lake.tables import Lake, LakeConfig
from emoray.registry.config import TrackingConfig, tracking_uri
from emoray.scoring.bundle_files import check_files
from emoray_jobs.cluster import job_server
from emoray_jobs.doctor.finding import Finding

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from emoray_jobs.config import Config

CONNECT_TIMEOUT_S = 5.0


def check_lake(config: Config) -> Finding:
    """Whether tables can be written, read and removed."""
    options = dict(config.lake.storage_options)
    if config.lake.root.startswith("s3://"):
        # A job is patient with a store; whoever asks a doctor is not.
        retries = {"mode": "standard", "max_attempts": 1}
        options["config_kwargs"] = {**options.get("config_kwargs", {}), "retries": retries}
    lake = Lake(config.lake.model_copy(update={"storage_options": options}))
    name, data = f".doctor-{uuid.uuid4().hex}", b"emoray"
    try:
        lake.write_bytes(data, "work", name)
    except Exception as error:  # each store raises its own exceptions
        return Finding(
            "fail", f"{lake.root}: {error}", "Check lake.root, its permissions and, for s3://, the credentials"
        )
    try:
        if lake.read_bytes("work", name) != data:
            return Finding("fail", f"{lake.root} gives back other bytes than were written", "Check the store")
    finally:
        lake.fs.rm_file(lake.path("work", name))
    corpora = lake.corpora()
    return Finding("ok", f"{lake.root} is writable; corpora: {', '.join(corpora) or 'none yet'}")


def check_tracking(config: Config) -> Finding:
    """Whether MLflow's store answers; one that does not exist yet is made by the first training."""
    uri = tracking_uri(config.tracking, Lake(config.lake))
    if _is_missing(uri):
        return Finding("ok", f"{uri} (made by the first training)")
    if uri.startswith("sqlite"):
        experiments = _client(uri).search_experiments(max_results=100)
        return Finding("ok", f"{uri}: {len(experiments)} experiments")
    _get(uri, "/health")
    return Finding("ok", f"{uri} answers")


def check_champion(config: Config) -> Finding:
    """Whether there is a model to score with, and its files are all there."""
    uri, name = tracking_uri(config.tracking, Lake(config.lake)), config.tracking.model_name
    version = None
    if uri.startswith("sqlite"):
        if not _is_missing(uri):
            found = _client(uri).search_registered_models(f"name = '{name}'")
            version = found[0].aliases.get("champion") if found else None
    else:
        query = {"name": name, "alias": "champion"}
        answer = _get(uri, "/api/2.0/mlflow/registered-models/alias", query, missing_is_none=True)
        version = answer and answer["model_version"]["version"]
    if version is None:
        return Finding(
            "warn",
            f"{name} has no champion yet: nothing to score with",
            "emoray train, then emoray promote; or emoray demo",
        )
    from emoray.registry import versions
    from emoray.registry.tracking import connect

    tracking = connect(config.tracking, Lake(config.lake))
    check_files(versions.fetch(tracking, versions.by_version(tracking, version)))
    return Finding("ok", f"models:/{name}@champion is version {version}; its files can be opened")


def is_local_store(tracking: TrackingConfig, lake: LakeConfig) -> bool:
    """Whether the tracking store is an SQLite file."""
    try:
        return tracking_uri(tracking, Lake(lake)).startswith("sqlite")
    except ConfigError:
        return False


def _is_missing(uri: str) -> bool:
    """Whether an address names an SQLite file that does not exist. MLflow would make it."""
    return uri.startswith("sqlite") and not os.path.exists(uri.partition(":///")[2])


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _get(uri: str, path: str, query: dict[str, str] | None = None, *, missing_is_none: bool = False) -> Any:
    import httpx

    try:
        trust = not job_server.is_loopback(uri)
        answer = httpx.get(uri.rstrip("/") + path, params=query, timeout=CONNECT_TIMEOUT_S, trust_env=trust)
        if missing_is_none and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceError(
            f"MLflow does not answer ({error})", where=uri, remedy="Check tracking.uri and that the server runs"
        ) from error
    return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text


def check_ray(config: Config) -> Finding:
    """Whether the cluster answers and runs the same Ray."""
    ours = metadata.version("ray")
    given = config.submit.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not given:
        where = config.cluster.address or os.environ.get("RAY_ADDRESS")
        return Finding(
            "ok", f"Ray {ours}; jobs run on {where or 'a local Ray'}" + ("" if where else ", no cluster named")
        )
    address = job_server.resolve_address(given)
    theirs = job_server.server_version(address, CONNECT_TIMEOUT_S)
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Finding(
            "fail",
            f"{address} runs Ray {theirs}, this client {ours}",
            "Have one version on both sides (infra/Containerfile)",
        )
    return Finding("ok", f"{address} runs Ray {theirs}")


def check_token(_config: Config) -> Finding:
    """Whether there is a Ray token, and only its owner can read it."""
    token, place = job_server.auth_token()
    if place == "RAY_AUTH_MODE=disabled":
        remedy = "Unset it: whoever reaches the ports of a Ray without a token can run any code on it"
        return Finding("warn", f"{place}: token authentication is off", remedy)
    if token is None:
        return Finding("ok", f"none at {place}; a local Ray makes its own, a cluster requires RAY_AUTH_TOKEN_PATH")
    if os.path.isfile(place) and stat.S_IMODE(os.stat(place).st_mode) & 0o077:
        return Finding("warn", f"{place} can be read by others", f"chmod 600 {place}")
    return Finding("ok", f"from {place}")
