"""Model versions: find one, give it an alias, fetch it again."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from emoray.errors import EmorayError, InputError, RegistryError
from emoray.lake.atomic import atomic_folder
from emoray.lake.tables import Lake
from emoray.registry.publish import shared
from emoray.registry.reach import is_lost, lost_error, patient
from emoray.registry.tracking import Tracking

if TYPE_CHECKING:
    from emoray.scoring.scorer import Scorer

# Torch and the models are imported only to load a version: replicas that look one up do not need them.

CHAMPION = "champion"
CHALLENGER = "challenger"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class Version:
    """A registered model version: its model, number, run, MLflow's address of its files, aliases and tags.

    What identifies it is model and number together: `uri`.
    """

    name: str
    version: str
    run_id: str
    source: str
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Its address in MLflow, made of the name and the number."""
        return f"models:/{self.name}/{self.version}"

    @property
    def model_id(self) -> str | None:
        """The logged model that it hangs on; None for a version that was made from a folder."""
        path = self.source.removeprefix("models:/")
        return path if path != self.source and path.startswith("m-") else None


# --- finding --------------------------------------------------------------------------------------------------------


def by_alias(tracking: Tracking, alias: str) -> Version:
    """The version with an alias.

    Raises:
        RegistryError: There is none (`no_champion`, `no_challenger` …).
    """
    found = find_alias(tracking, alias)
    if found is None:
        remedy = {
            CHAMPION: "Train and promote one: emoray train, then emoray promote (or: emoray demo)",
            CHALLENGER: "Train one first: emoray train",
        }.get(alias, "See the registered model's aliases in MLflow")
        raise RegistryError(
            f"model {tracking.model_name!r} has no {alias} yet", where=tracking.uri, remedy=remedy, kind=f"no_{alias}"
        )
    return found


def find_alias(tracking: Tracking, alias: str) -> Version | None:
    """The version with an alias, or None."""
    try:
        return version_of(tracking.client.get_model_version_by_alias(tracking.model_name, alias))
    except MlflowException as error:
        if error.error_code in _MISSING:
            return None
        raise


def by_version(tracking: Tracking, version: str | int) -> Version:
    """A version by its number.

    Raises:
        RegistryError: There is no such version.
    """
    try:
        found = tracking.client.get_model_version(tracking.model_name, str(version))
    except MlflowException as error:
        if error.error_code not in _MISSING:
            raise
        known = ", ".join(one.version for one in all_versions(tracking)) or "none"
        raise RegistryError(
            f"model {tracking.model_name!r} has no version {version} (it has: {known})",
            where=tracking.uri,
            remedy="Choose one of these, or an alias",
            kind="no_such_version",
        ) from None
    return version_of(found)


def all_versions(tracking: Tracking) -> list[Version]:
    """All versions, oldest first."""
    found = tracking.client.search_model_versions(f"name = '{tracking.model_name}'", max_results=1000)
    return sorted((version_of(one) for one in found), key=lambda one: int(one.version))


def resolve(tracking: Tracking, reference: str) -> Version:
    """A version by alias (`champion`, `@champion`), number (`7`), `latest`, or an address.

    Addresses are `models:/NAME/NUMBER`, `models:/NAME/latest` and `models:/NAME@ALIAS`. Only an address may name a
    version of another registered model than the configured one.

    Raises:
        RegistryError: There is no such version.
        InputError: The address names no version (`bad_model_address`).
    """
    if reference.startswith("models:/"):
        path = reference.removeprefix("models:/")
        name, _, rest = path.partition("@" if "@" in path else "/")
        if not name or not rest:
            raise InputError(
                f"{reference!r} names no version",
                remedy="Write models:/NAME@ALIAS or models:/NAME/NUMBER",
                kind="bad_model_address",
            )
        return resolve(dataclasses.replace(tracking, model_name=name), rest)
    name = reference.removeprefix("@")
    if name == "latest":
        versions = all_versions(tracking)
        if not versions:
            raise RegistryError(
                f"model {tracking.model_name!r} has no version yet",
                where=tracking.uri,
                remedy="Train one first: emoray train",
                kind="no_such_version",
            )
        return versions[-1]
    return by_version(tracking, name) if name.isdigit() else by_alias(tracking, name)


def own(tracking: Tracking, version: Version) -> Version:
    """The version, if it is one of the configured registered model: only these can get its aliases.

    Raises:
        RegistryError: It belongs to another registered model (`foreign_version`).
    """
    if version.name != tracking.model_name:
        raise RegistryError(
            f"{version.uri} is a version of another registered model than {tracking.model_name!r}",
            where="tracking.model_name",
            remedy=f"Work with that model: --set tracking.model_name={version.name}. Or copy the version into this one:"
            f" mlflow.MlflowClient().copy_model_version({version.uri!r}, {tracking.model_name!r})",
            kind="foreign_version",
        )
    return version


# --- naming ---------------------------------------------------------------------------------------------------------


def set_alias(tracking: Tracking, alias: str, version: Version) -> None:
    """Give a version of the configured model an alias; another version loses it.

    Raises:
        RegistryError: It is a version of another registered model (`foreign_version`).
    """
    tracking.client.set_registered_model_alias(tracking.model_name, alias, own(tracking, version).version)


def drop_alias(tracking: Tracking, alias: str) -> None:
    """Remove an alias, if it exists."""
    if find_alias(tracking, alias) is not None:
        tracking.client.delete_registered_model_alias(tracking.model_name, alias)


def tag_version(tracking: Tracking, version: Version, tags: Mapping[str, Any]) -> None:
    """Set tags on a version."""
    for key, value in tags.items():
        tracking.client.set_model_version_tag(version.name, version.version, key, str(value))


# --- fetching -------------------------------------------------------------------------------------------------------


def fetch(tracking: Tracking, version: Version, cache_dir: str | Path | None = None) -> Path:
    """The version's bundle as a local folder. Local files are used where they are, others are cached.

    The default `cache_dir` is a folder per user in the system's temporary one.

    Raises:
        RegistryError: Its files are gone.
    """
    return model_folder(tracking, version, cache_dir) / "artifacts" / "bundle"


def model_folder(tracking: Tracking, version: Version, cache_dir: str | Path | None = None) -> Path:
    """The version's whole MLflow model as a local folder; see `fetch`. Files that it shares are fetched too."""
    folder = _own_folder(tracking, version, cache_dir)
    try:
        shared.ensure(folder / "artifacts" / "bundle", tracking.client)
    except (MlflowException, OSError) as error:
        raise _not_fetched(tracking, version, error) from error
    return folder


def _own_folder(tracking: Tracking, version: Version, cache_dir: str | Path | None) -> Path:
    try:
        address = tracking.client.get_model_version_download_uri(version.name, version.version)
        local = local_path(address)
        if local is not None:
            if not (local / "MLmodel").is_file():
                raise FileNotFoundError(local)
            return local
        root = Path(cache_dir or Path(tempfile.gettempdir()) / f"emoray-{getpass.getuser()}") / "models"
        # Version numbers start again in another store: the address distinguishes models of one name and number.
        final = root / version.name / f"{version.version}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
        if final.is_dir():
            return final
        with atomic_folder(final, replace=False) as draft, patient():
            mlflow.artifacts.download_artifacts(artifact_uri=version.uri, dst_path=draft, tracking_uri=tracking.uri)
        return final
    except (MlflowException, FileNotFoundError) as error:
        raise _not_fetched(tracking, version, error) from error


def _not_fetched(tracking: Tracking, version: Version, error: Exception) -> EmorayError:
    if is_lost(error):
        return lost_error(tracking.uri, error)
    return RegistryError(
        f"the files of version {version.version} cannot be fetched: {error}",
        where=version.source,
        remedy="Restore the artifact folder, or choose another version",
        kind="version_files_missing",
    )


def load(
    tracking: Tracking, version: Version, cache_dir: str | Path | None = None, *, speakers: Lake | None = None
) -> Scorer:
    """Fetch a version and open it as a scorer (its `version` is filled in).

    Args:
        speakers: A lake whose enrolled speakers it knows too.

    Raises:
        RegistryError: Its files are gone or not a usable bundle.
    """
    from emoray.scoring.bundle import open_bundle
    from emoray.scoring.scorer import Scorer

    bundle = open_bundle(fetch(tracking, version, cache_dir))
    scorer = Scorer(bundle if speakers is None else bundle.with_speakers_of(speakers))
    scorer.version = version.version
    return scorer


def local_path(address: str) -> Path | None:
    """The folder of an artifact address on a disk of this machine; None for one elsewhere."""
    parsed = urlparse(address)
    if parsed.scheme == "file":
        return Path(url2pathname(parsed.path))
    return Path(address) if parsed.scheme == "" else None


def version_of(found: ModelVersion) -> Version:
    """A version from MLflow's entity."""
    return Version(
        name=found.name,
        version=str(found.version),
        run_id=str(found.run_id),
        source=str(found.source),
        aliases=tuple(found.aliases or ()),
        tags=dict(found.tags or {}),
    )
