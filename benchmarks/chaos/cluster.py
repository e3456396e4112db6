"""A Ray cluster of three nodes on this machine whose parts can be killed and replaced."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import tempfile
from pathlib import Path

from benchmarks import proc

STORE_BYTES = 150 * 2**20
#: Cores of each worker node: together they have the machine's.
WORKER_CPUS = max(1, len(os.sched_getaffinity(0)) // 2)


def use_token(stack: contextlib.ExitStack) -> None:
    """Set a token for the clusters of this process, which reads it once."""
    token = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-token-")), "token")
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}


class Nodes:
    """A head without cores, where drivers and outcome writers run, and two worker nodes.

    Args:
        stack: Shuts the cluster down at its end.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        from ray.cluster_utils import Cluster

        # Ray records its newest cluster there and does not make the folder.
        os.environ["RAY_TMPDIR"] = folder
        # Ray's sockets lie below it; their paths may have at most 107 characters.
        self._common = {"object_store_memory": STORE_BYTES, "temp_dir": f"{folder}/ray", "include_dashboard": False}
        os.mkdir(f"{folder}/ray")
        self._cluster = Cluster(initialize_head=True, head_node_args={**self._common, "num_cpus": 0})
        stack.callback(self._cluster.shutdown)
        self.restore()

    @property
    def address(self) -> str:
        """Address of the head."""
        return str(self._cluster.address)

    def restore(self) -> None:
        """Replace killed worker nodes."""
        for node in list(self._cluster.worker_nodes):
            if not proc.command(self._raylet(node)):
                self._cluster.remove_node(node, allow_graceful=False)
        while len(self._cluster.worker_nodes) < 2:
            self._cluster.add_node(**self._common, num_cpus=WORKER_CPUS)
        self._cluster.wait_for_nodes()

    def kill(self, what: str, driver: subprocess.Popen[str], at_work: set[int], draw: random.Random) -> str | None:
        """Send SIGKILL.

        Args:
            what: `driver`; `worker`, a process that ran stages or the outcome writer; `raylet`, that of a worker
                node; or `head`, the head's raylet.
            driver: The job.
            at_work: Processes that ran stages.
            draw: Chooses among several.

        Returns:
            The killed process; None if there was none of that kind.
        """
        if what == "driver":
            victims = [driver.pid]
        elif what == "worker":
            workers = [pid for node in self._cluster.list_all_nodes() for pid in proc.descendants(self._raylet(node))]
            victims = [
                pid for pid in sorted(workers) if pid in at_work or proc.command(pid).startswith("ray::OutcomeWriter")
            ]
        elif what == "raylet":
            victims = [self._raylet(node) for node in self._cluster.worker_nodes]
        else:
            victims = [self._raylet(self._cluster.head_node)]
        if not victims:
            return None
        victim = draw.choice(victims)
        name = proc.command(victim)
        os.kill(victim, signal.SIGKILL)
        return name if name.startswith("ray::") else what

    @staticmethod
    def _raylet(node: object) -> int:
        return int(node.all_processes["raylet"][0].process.pid)  # type: ignore[attr-defined]
