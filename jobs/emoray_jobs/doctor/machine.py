"""Checks of this machine: Python, packages, cores, memory, disk, GPU, ports."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoray.lake.tables import Lake
from emoray_jobs.doctor.finding import Finding

if TYPE_CHECKING:
    from emoray_jobs.config import Config

PYTHONS = ((3, 11), (3, 13))
MIN_DISK_GIB = 10
MIN_MEMORY_GIB = 8  # annotate and a two-worker training of the laptop preset, with room for the object store
MIN_CORES = 2


def check_python(_config: Config) -> Finding:
    """Whether this Python is one that the lock was made for."""
    first, last = PYTHONS
    text = f"{sys.version.split()[0]} at {sys.executable}"
    if first <= sys.version_info[:2] <= last:
        return Finding("ok", text)
    return Finding(
        "fail", text, f"Use Python {first[0]}.{first[1]} to {last[0]}.{last[1]}: make clean setup PYTHON=python3.12"
    )


def check_packages(_config: Config) -> Finding:
    """Whether the installed packages are those that emoray requires, and in a clone those of its lock."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in metadata.requires("emoray") or []]
    wanted = [r for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
    wrong = [f"{r} (found {_installed(r.name)})" for r in wanted if not _satisfies(_installed(r.name), r.specifier)]
    remedy = "make setup, or in an environment of your own: pip install --upgrade emoray"
    if wrong:
        return Finding("fail", "; ".join(wrong), remedy)
    lock = Path(__file__).parents[3] / "requirements" / "lock.txt"
    if not lock.is_file():
        return Finding("ok", f"{len(wanted)} requirements met")
    pinned = [Requirement(line) for line in lock.read_text(encoding="utf-8").splitlines()]
    # Packages of `dev` may be missing where nobody develops; another version than the tested one is worth knowing.
    other = [
        f"{r} (found {found})" for r in pinned if (found := _installed(r.name)) and not _satisfies(found, r.specifier)
    ]
    if other:
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        return Finding("warn", f"other versions than the lock's: {'; '.join(other[:5])}{more}", "make setup")
    return Finding("ok", f"{len(wanted)} requirements met, versions as in the lock")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _satisfies(version: str | None, specifier: Any) -> bool:
    return version is not None and specifier.contains(version, prereleases=True)


def check_shadowing(_config: Config) -> Finding:
    """Whether something hides Python's own `platform`, which breaks torch, Ray and uuid on every worker."""
    standard = Path(os.__file__).parent
    places = [Path(entry or ".").resolve() for entry in ["", *sys.path]]
    hidden = [
        str(found)
        for place in dict.fromkeys(places)
        if place != standard
        for found in (place / "platform.py", place / "platform" / "__init__.py")
        if found.is_file()
    ]
    if hidden:
        return Finding(
            "fail",
            f"{hidden[0]} hides Python's own module `platform`",
            "Remove or rename it; folders need no __init__.py",
        )
    return Finding("ok", "Python's `platform` is its own")


def check_machine(config: Config) -> Finding:
    """Cores, memory and the shared memory of Ray's object store."""
    cores = len(os.sched_getaffinity(0))
    fields = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8")))
    free, total = int(fields["MemAvailable"]) / 2**20, int(fields["MemTotal"]) / 2**20
    shared = shutil.disk_usage("/dev/shm").free / 2**30
    text = f"{cores} cores, {free:.1f} of {total:.1f} GiB memory free, {shared:.1f} GiB shared memory"
    if free < MIN_MEMORY_GIB or cores < MIN_CORES:
        return Finding(
            "warn",
            text,
            f"The laptop preset needs {MIN_CORES} cores and {MIN_MEMORY_GIB} GiB; launch.workers=1 takes less",
        )
    if shared < config.cluster.object_store_mib / 2**10:
        return Finding(
            "warn", text, "Ray's object store would be on disk, which is slow: give the container --shm-size"
        )
    return Finding("ok", text)


def check_disk(config: Config) -> Finding:
    """Free space where local tables, models and Ray's spilled objects go."""
    lake = Lake(config.lake)
    place = Path(lake.path() if lake.is_local else os.environ.get("TMPDIR", "/tmp"))
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if free < MIN_DISK_GIB:
        return Finding("warn", f"{free:.1f} GiB free at {place}", f"Free some: {MIN_DISK_GIB} GiB are comfortable")
    return Finding("ok", f"{free:.0f} GiB free at {place}")


def check_gpu(config: Config) -> Finding:
    """Whether torch sees the GPU that the configuration or the machine promises."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("ok", f"{', '.join(names)}, torch {torch.__version__}")
    if shutil.which("nvidia-smi") and "+cpu" in torch.__version__:
        return Finding(
            "warn", f"the machine has one, but torch {torch.__version__} is a CPU build", "make clean setup GPU=1"
        )
    if config.launch.gpu:
        return Finding(
            "fail", "launch.gpu is set, and torch sees none here", "Submit to a cluster with GPUs, or launch.gpu=false"
        )
    return Finding("ok", f"none; the configuration needs none (torch {torch.__version__})")


def check_ports(config: Config) -> Finding:
    """Whether the ports of the application and of Ray's dashboard are free."""
    taken = [port for port in (config.serve.http.port, 8265) if not _is_free(port)]
    if taken:
        remedy = "Something listens there: another emoray or Ray, or choose another with serve.http.port"
        return Finding("warn", f"taken: {', '.join(map(str, taken))}", remedy)
    return Finding("ok", f"{config.serve.http.port} (application) and 8265 (Ray's dashboard) are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
