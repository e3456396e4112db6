"""The Ray that `emoray` starts: for this machine only, with a token, gone in the end; and the one that it joins."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from emoray.errors import ConfigError, ServiceError

SESSION = """
import json, os, sys
from emoray.lake.tables import LakeConfig
from emoray_jobs.cluster import ClusterConfig, session

def family():
    # Ray's processes and their kin, by the session folder or the parent that they name.
    own, kin = os.getpid(), {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                kin[int(pid)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            pass
    found, grown = {own}, True
    while grown:
        more = {pid for pid, parent in kin.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found - {own}

def listening(pids):
    inodes = set()
    for pid in pids:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            pass
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            for line in list(file)[1:]:
                parts = line.split()
                if parts[3] == "0A" and parts[9] in inodes:
                    addresses.add(parts[1].split(":")[0])
    return sorted(addresses)

cluster = ClusterConfig(address=None, num_cpus=1, object_store_mib=128, dashboard=False, worker_logs=False)
lake = LakeConfig(root=sys.argv[1], storage_options={})
with session(cluster, lake):
    import ray
    with session(cluster, lake):  # the second one joins the first
        pass
    assert ray.is_initialized()
    mode = ray.get(ray.remote(lambda: os.environ.get("RAY_AUTH_MODE")).remote())
    inside = {"listening": listening(family()), "token": os.environ["RAY_AUTH_TOKEN_PATH"], "mode": mode}
assert not ray.is_initialized()
print(json.dumps(inside))
"""

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def test_a_local_ray_is_for_this_machine_only_and_has_a_token(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SESSION, str(tmp_path / "lake")],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    inside = json.loads(done.stdout.splitlines()[-1])
    assert inside["mode"] == "token"
    assert inside["listening"], "Ray listens nowhere: the test looks in the wrong place"
    assert set(inside["listening"]) <= LOOPBACK
    token = tmp_path / "lake" / "ray" / "auth_token"
    assert inside["token"] == str(token)
    assert token.stat().st_mode & 0o077 == 0
    assert len(token.read_text()) == 64
    assert not list(home.rglob("*")), "Ray wrote into the home"


JOIN = """
import sys
from emoray.errors import EmorayError
from emoray.lake.tables import LakeConfig
from emoray_jobs.cluster import ClusterConfig, session
cluster = ClusterConfig(address=sys.argv[1], num_cpus=None, object_store_mib=128, dashboard=False, worker_logs=False)
try:
    with session(cluster, LakeConfig(root=sys.argv[2], storage_options={})):
        raise SystemExit("it joined")
except EmorayError as error:
    print(type(error).__name__, error.kind, error)
"""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "http://127.0.0.1:8265",
            f"{ConfigError.__name__} bad_config cluster.address: http://127.0.0.1:8265 is a dash",
        ),
        ("127.0.0.1:1", f"{ServiceError.__name__} no_cluster 127.0.0.1:1: no Ray cluster answers"),
    ],
)
def test_addresses_where_no_cluster_is(tmp_path, address, expected):
    command = [sys.executable, "-c", JOIN, address, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith(expected), done.stdout + done.stderr
