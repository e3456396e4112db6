"""With what a training ran: its configuration and the installed packages, kept as artifacts of its MLflow run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow.exceptions import MlflowException

from emoray.errors import RegistryError
from emoray.registry import provenance
from emoray.registry.reach import is_lost, lost_error
from emoray.registry.tracking import Tracking

CONFIGURATION, PACKAGES = "setup/configuration.yaml", "setup/requirements.txt"
#: What may hold a secret: section, key. Its values are not kept.
_PRIVATE = (("lake", "storage_options"), ("submit", "env"))


def log_setup(tracking: Tracking, run_id: str, configuration: Mapping[str, Any]) -> None:
    """Keep the configuration in effect (its JSON values) and the packages, as artifacts of a run."""
    tree = {name: dict(section) for name, section in configuration.items()}
    for section, key in _PRIVATE:
        tree[section][key] = dict.fromkeys(tree[section][key], "not kept")
    if "@" in (tree["tracking"]["uri"] or ""):  # a user and a password; `reproduce` takes the caller's store anyway
        tree["tracking"]["uri"] = None
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    tracking.log_text(run_id, text, CONFIGURATION)
    tracking.log_text(run_id, "\n".join(provenance.packages()) + "\n", PACKAGES)


def read_setup(tracking: Tracking, run_id: str) -> tuple[dict[str, Any], list[str]]:
    """The configuration and the packages of a run.

    Raises:
        RegistryError: The run kept none (`no_setup`): it is no run of `emoray train`, or an old one.
    """
    with tempfile.TemporaryDirectory(prefix="emoray-setup-") as work:
        try:
            texts = [
                Path(tracking.client.download_artifacts(run_id, name, work)).read_text(encoding="utf-8")
                for name in (CONFIGURATION, PACKAGES)
            ]
        except (MlflowException, OSError) as error:
            if is_lost(error):
                raise lost_error(tracking.uri, error) from error
            raise RegistryError(
                f"run {run_id} has no {CONFIGURATION}: {error}",
                where=tracking.uri,
                remedy="Name a run of emoray train (of this version or later)",
                kind="no_setup",
            ) from error
    return yaml.safe_load(texts[0]), texts[1].split()
