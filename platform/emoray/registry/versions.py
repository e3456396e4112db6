"""Model versions: log a bundle, register it, give it an alias, fetch it again."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

import emoray
from emoray.audio import moonshine
from emoray.errors import InputError, RegistryError
from emoray.lake.atomic import atomic_folder
from emoray.lake.tables import Lake
from emoray.registry import example
from emoray.registry.tracking import Tracking

if TYPE_CHECKING:
    from emoray.models.config import ModelConfig
    from emoray.scoring.scorer import Scorer

# Torch and the models are imported only to make or load a version: replicas that look one up do not need them.

CHAMPION = "champion"
CHALLENGER = "challenger"
CARD = "model_card.md"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")

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


def log_bundle(
    tracking: Tracking,
    run_id: str,
    bundle: str | Path,
    *,
    card: str,
    tags: Mapping[str, str],
) -> Version:
    """Log a bundle to its run as an MLflow pyfunc and register it as a new version, without an alias.

    The version contains the bundle, the source of the package `emoray` and pinned requirements: a process without this
    repository can load it. `card` is Markdown (`emoray.registry.card`); `tags` are configuration and data hashes,
    seeds, git commit ….

    Raises:
        RegistryError: The bundle cannot be opened (`bad_bundle`); nothing is registered then.
    """
    from emoray.registry.pyfunc import SIGNATURE, data_uri
    from emoray.scoring.scorer import load_bundle

    scorer = load_bundle(bundle)
    config = scorer.bundle.config
    with tempfile.TemporaryDirectory(prefix="emoray-version-") as work:
        code = _source_without_caches(Path(work) / "code")
        card_path = Path(work) / CARD
        card_path.write_text(card, encoding="utf-8")
        staged = Path(work) / "bundle"
        _link_tree(Path(bundle), staged)
        with _active(run_id), _without_bytecode():
            info = mlflow.pyfunc.log_model(
                name=config.name,
                python_model=str(Path(__file__).with_name("model_script.py")),
                artifacts={"bundle": str(staged), "card": str(card_path)},
                code_paths=[str(code)],
                pip_requirements=pip_requirements(config),
                signature=SIGNATURE,
                model_config={"addresses": []},  # MLflow lets whoever loads the model change only keys that are there
                input_example=pd.DataFrame({"audio": [data_uri(example.wav())]}),
            )
    with contextlib.suppress(MlflowException):  # it exists already
        tracking.client.create_registered_model(tracking.model_name)
    made = tracking.client.create_model_version(
        tracking.model_name,
        source=info.model_uri,
        run_id=run_id,
        tags={example.TAG: json.dumps(example.scores(scorer)), **{key: str(value) for key, value in tags.items()}},
        model_id=info.model_id,
    )
    return _version(made)


def pip_requirements(config: ModelConfig) -> list[str]:
    """Pinned requirements of a version of a model, without local build tags such as `+cpu`."""
    encoder, needed = config.encoder, list(REQUIREMENTS)
    if encoder.kind in ("moonshine", "moonshine_logmel"):
        needed.append(moonshine.PACKAGE)
    if encoder.kind == "ssl" and encoder.ssl.tuning == "lora":
        needed.append("peft")
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in needed]


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
        return _version(tracking.client.get_model_version_by_alias(tracking.model_name, alias))
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
    return _version(found)


def all_versions(tracking: Tracking) -> list[Version]:
    """All versions, oldest first."""
    found = tracking.client.search_model_versions(f"name = '{tracking.model_name}'", max_results=1000)
    return sorted((_version(one) for one in found), key=lambda one: int(one.version))


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
    """The version's whole MLflow model as a local folder; see `fetch`."""
    try:
        address = tracking.client.get_model_version_download_uri(version.name, version.version)
        local = _local_path(address)
        if local is not None:
            if not (local / "MLmodel").is_file():
                raise FileNotFoundError(local)
            return local
        root = Path(cache_dir or Path(tempfile.gettempdir()) / f"emoray-{getpass.getuser()}") / "models"
        # Version numbers start again in another store: the address distinguishes models of one name and number.
        final = root / version.name / f"{version.version}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
        if final.is_dir():
            return final
        with atomic_folder(final, replace=False) as draft:
            mlflow.artifacts.download_artifacts(artifact_uri=version.uri, dst_path=draft, tracking_uri=tracking.uri)
        return final
    except (MlflowException, FileNotFoundError) as error:
        raise RegistryError(
            f"the files of version {version.version} cannot be fetched: {error}",
            where=version.source,
            remedy="Restore the artifact folder, or choose another version",
            kind="version_files_missing",
        ) from error


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


def _local_path(address: str) -> Path | None:
    parsed = urlparse(address)
    if parsed.scheme == "file":
        return Path(url2pathname(parsed.path))
    return Path(address) if parsed.scheme == "" else None


def _version(found: ModelVersion) -> Version:
    return Version(
        name=found.name,
        version=str(found.version),
        run_id=str(found.run_id),
        source=str(found.source),
        aliases=tuple(found.aliases or ()),
        tags=dict(found.tags or {}),
    )


@contextlib.contextmanager
def _active(run_id: str) -> Iterator[None]:
    """Make a run MLflow's active one, which its `log_model` requires, and restore its status."""
    current = mlflow.active_run()
    if current is not None and current.info.run_id == run_id:
        yield
        return
    client = mlflow.MlflowClient()
    before = client.get_run(run_id).info.status
    with mlflow.start_run(run_id=run_id, nested=current is not None):
        yield
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
