"""What a submitted job carries: the three packages, the resolved configuration and the local files that it names."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoray.config import to_yaml
from emoray.errors import ConfigError, InputError
from emoray_jobs.cluster.job_server import is_this_machine
from emoray_jobs.verbs import Verb

if TYPE_CHECKING:
    from emoray_jobs.config import Config

CONFIG_FILE = "config.yaml"


def package_folders() -> list[str]:
    """Folders of the three installed packages, wherever they were installed."""
    import emoray
    import emoray_jobs
    import emoray_serving

    packages = (emoray, emoray_jobs, emoray_serving)
    return [os.path.dirname(os.path.abspath(str(package.__file__))) for package in packages]


@contextlib.contextmanager
def build_job_package(config: Config, words: Sequence[str], verb: Verb, address: str) -> Iterator[tuple[str, str]]:
    """Fill a temporary working directory for a job; yields the folder, and the command to run in it.

    Args:
        config: The resolved configuration; the job gets exactly this, with its local paths made right for the cluster.
        words: The command that the job runs: verb and arguments.
        verb: The verb's entry: whether the tracking store's address and local files among the arguments travel along.
        address: The job server. Where all nodes are this machine, local folders stay what they are.

    Raises:
        ConfigError: Tables are in a folder that the cluster does not see.
        InputError: The files come to more than `submit.max_upload_mib`.
    """
    with tempfile.TemporaryDirectory(prefix="emoray-submit-") as folder:
        shared = ["/"] if is_this_machine(address, config.submit.connect_timeout_s) else config.submit.shared_folders
        package = JobPackage(Path(folder), address, shared, config.submit.max_upload_mib)
        tree = config.model_dump(mode="json")
        tree["cluster"]["address"] = None  # inside the job Ray itself says which cluster it is
        tree["lake"]["root"] = package.cluster_path(config.lake.root, "lake.root")
        if verb.tracking:
            tree["tracking"] = _tracking(tree["tracking"], package)
        tree["corpus"] = package.bundle_files(tree["corpus"], "corpus")
        if verb.local_files:
            words = [words[0], *(package.bundle_files(word, words[0]) for word in words[1:])]
        text = to_yaml(type(config).model_validate(tree))
        Path(folder, CONFIG_FILE).write_text(text, encoding="utf-8")
        yield folder, shlex.join([config.submit.python, "-m", "emoray_jobs", *words, "--config", CONFIG_FILE])


def _tracking(tracking: dict[str, Any], package: JobPackage) -> dict[str, Any]:
    """The tracking section as the cluster must see it; `MLFLOW_TRACKING_URI` of this shell stays here."""
    uri = tracking["uri"] or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is not None:
        scheme, separator, path = uri.partition(":///")
        if separator and scheme == "file":
            uri = f"file://{package.cluster_path(f'/{path}', 'tracking.uri')}"
        elif separator and scheme.startswith("sqlite"):
            uri = f"{scheme}:///{package.cluster_path(path, 'tracking.uri')}"
        else:
            uri = package.cluster_path(uri, "tracking.uri")
    root = tracking["artifact_root"]
    return {**tracking, "uri": uri, "artifact_root": root and package.cluster_path(root, "tracking.artifact_root")}


class JobPackage:
    """A job's working directory while it is being filled.

    Args:
        shared_folders: Folders that every node mounts at the same place.
        max_mib: Cap on the files.
    """

    def __init__(self, folder: Path, address: str, shared_folders: Sequence[str], max_mib: int) -> None:
        self.folder = folder
        self.address = address
        self.shared_folders = shared_folders
        self.max_mib = max_mib
        self._copies: dict[str, str] = {}
        self._size_bytes = 0

    def cluster_path(self, path: str, where: str) -> str:
        """A place that the nodes can open: an address of a store as it is, a folder only if they see the same one.

        Raises:
            ConfigError: They do not.
        """
        if "://" in path:
            return path
        absolute = os.path.abspath(os.path.expanduser(path))
        if self._is_shared(absolute):
            return absolute
        raise ConfigError(
            f"{path!r} is on this machine, where the nodes of {self.address} do not see it",
            where=where,
            remedy="Use a store that every node reaches (s3://…), or list their common mount in submit.shared_folders",
            kind="not_shared",
        )

    def bundle_files(self, value: Any, where: str) -> Any:
        """Copy the local files that a tree of configuration names; the tree that comes back names the copies.

        Folders are not copied (see `cluster_path`), nor is what the nodes see anyway.
        """
        if isinstance(value, dict):
            return {key: self.bundle_files(item, f"{where}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.bundle_files(item, where) for item in value]
        if not isinstance(value, str) or "://" in value:
            return value
        path = os.path.abspath(os.path.expanduser(value))
        # A plain word is a name, even if there is a file of that name here.
        if (os.sep not in value and not Path(value).suffix) or not os.path.exists(path):
            return value
        return self.cluster_path(value, where) if os.path.isdir(path) or self._is_shared(path) else self._copy(path)

    def _is_shared(self, path: str) -> bool:
        return any(Path(path).is_relative_to(folder) for folder in self.shared_folders)

    def _copy(self, path: str) -> str:
        if path in self._copies:
            return self._copies[path]
        self._size_bytes += os.path.getsize(path)
        if self._size_bytes > self.max_mib * 2**20:
            raise InputError(
                f"the files to send come to more than {self.max_mib} MiB",
                where=path,
                remedy="Put them on the store that the cluster reads (s3://…), or raise submit.max_upload_mib",
                kind="upload_too_large",
            )
        name = f"files/{len(self._copies)}-{os.path.basename(path)}"
        (self.folder / "files").mkdir(exist_ok=True)
        shutil.copyfile(path, self.folder / name)
        self._copies[path] = name
        return name
