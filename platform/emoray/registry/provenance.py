"""Where a run comes from: who started it, with which command, from which code and packages, in MLflow's own tags."""

from __future__ import annotations

import functools
import getpass
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE
from mlflow.utils.mlflow_tags import MLFLOW_USER as USER

import emoray

#: Tag of the verb that made a run.
VERB = "emoray.verb"
GIT_COMMIT, GIT_DIRTY = MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY


def tags(verb: str | None = None) -> dict[str, str]:
    """The tags of a run that a verb makes; MLflow's pages show user, source and commit in columns of their own."""
    found = {USER: user(), MLFLOW_SOURCE_NAME: f"emoray {verb or ''}".strip(), MLFLOW_SOURCE_TYPE: "LOCAL"}
    if verb is not None:
        found[VERB] = verb
    checkout = commit()
    if checkout is not None:
        found |= {GIT_COMMIT: checkout.removesuffix("-dirty"), GIT_DIRTY: str(checkout.endswith("-dirty")).lower()}
    return found


def user() -> str:
    """Who runs this process: the tracking server's user where one is given, else the system's."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


@functools.cache
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


def release() -> str:
    """What identifies the code: the commit, or the release of an installed package."""
    return commit() or f"release {metadata.version('emoray')}"


def packages() -> list[str]:
    """All installed packages as `name==version`, sorted."""
    # Ray puts its own packages on the path of processes that use it.
    path = [one for one in sys.path if not one.endswith("thirdparty_files")]
    found = {(one.metadata["Name"] or "").lower(): one.version for one in metadata.distributions(path=path)}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name]
