"""A Ray cluster of three nodes on this machine, in a separate process: `python three_nodes.py`.

Prints one line of JSON with the addresses once all nodes are up, and takes the cluster down when its standard input
closes, so that it ends with whoever started it. The environment decides about the token.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile

from ray.cluster_utils import Cluster

STORE_BYTES = 150 * 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_folder(folder: str, name: str) -> str:
    """A node's own folder, as on its own machine: a node unpacks a job's files over those of its neighbours."""
    path = os.path.join(folder, name)
    os.mkdir(path)
    return path


def main() -> None:
    # Ray's sockets lie below it, and their paths may not be longer than 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        # Jobs' supervisors look there for their cluster, instead of among those of the machine's user.
        os.environ["RAY_TMPDIR"] = folder
        head = {
            "temp_dir": own_folder(folder, "ray"),
            "object_store_memory": STORE_BYTES,
            "num_cpus": 1,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": free_port(),
            "dashboard_agent_listen_port": free_port(),
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for name in ("one", "two"):
                cluster.add_node(temp_dir=own_folder(folder, name), object_store_memory=STORE_BYTES, num_cpus=2)
            cluster.wait_for_nodes()
            sys.stdout.write(json.dumps({"dashboard": f"http://{cluster.webui_url}", "gcs": cluster.address}) + "\n")
            sys.stdout.flush()
            sys.stdin.read()
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
