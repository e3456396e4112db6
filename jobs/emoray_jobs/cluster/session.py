"""Where the jobs run: a local Ray, started and stopped with the job, or a cluster that is already there."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator

from emoray.errors import ConfigError, ServiceError
from emoray.lake.tables import Lake, LakeConfig
from emoray_jobs.config import ClusterConfig
from emoray_jobs.progress import spinner

CONNECT_TIMEOUT_S = 10.0
#: How long a worker process of a local Ray waits for work before it ends.
IDLE_WORKER_S = 10
#: Of how many tasks a local Ray's head remembers the states.
TASKS_REMEMBERED = 1000


def cluster_address(config: ClusterConfig) -> str | None:
    """Address of the cluster that jobs join; None where they start a local Ray."""
    return config.address or os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def session(config: ClusterConfig, lake: LakeConfig) -> Iterator[None]:
    """Have Ray for the time of a block.

    Reuses the Ray that the process is already connected to. Otherwise joins the cluster at `config.address` or
    `RAY_ADDRESS`; without either, starts a local Ray on loopback with token authentication, and stops it in the end.

    Args:
        lake: Where the local Ray's token is kept (so that `serve status` and the like can be given its path).

    Raises:
        ServiceError: There is no Ray at the address, or it refuses this client.
    """
    # Serve's controller ends by being killed, which Ray then reports on standard output. Read when Ray is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"ServeController\.graceful_shutdown failed")
    # Ray Data hands its actors their arguments through the object store, which Ray reports at each of them as an error
    # (ray-project/ray#53727), on the terminal. What goes wrong natively ends in an exception as well.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # the verbs show their own
    address = cluster_address(config)
    with contextlib.ExitStack() as stack:
        if address:
            with _without_log_level_line():
                _join(address, config)
        else:
            token = stack.enter_context(_token(lake))
            with spinner("starting Ray on this machine"), _without_log_level_line():
                _start_local(config, token)
        stack.callback(ray.shutdown)
        yield


@contextlib.contextmanager
def _without_log_level_line() -> Iterator[None]:
    """Keep one native line off the terminal: Ray says at each start that it has read `RAY_BACKEND_LOG_LEVEL`.

    It is written before there is a log file or a level. What else is written natively meanwhile comes afterwards.
    """
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held, open(terminal, "w", encoding="utf-8", buffering=1) as python:
        os.dup2(held.fileno(), 2)
        try:
            with contextlib.redirect_stderr(python):
                yield
        finally:
            os.dup2(terminal, 2)
            held.seek(0)
            for line in held:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def _start_local(config: ClusterConfig, token: str) -> None:
    import ray
    from ray._private import ray_constants

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # On Linux Ray listens on every interface. This is its switch for a loopback-only cluster (default
    # on macOS and Windows); it is read at import, hence both ways.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN_PATH"] = token
    # ray.init turns token authentication on by itself unless RAY_AUTH_MODE says otherwise, and warns that it does.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Ray ends a worker process after a second without work, and takes seconds to import the libraries of the next one:
    # training's data tasks, which come every few seconds, would each begin with that.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(IDLE_WORKER_S * 1000))
    # The log monitor would look for new files ten times a second; in our tests that took longer than raylet and GCS.
    os.environ.setdefault("RAY_LOG_MONITOR_MANY_FILES_THRESHOLD", "0")
    # The head would keep the states of a hundred thousand tasks for a dashboard, one kilobyte each. (Not to report them
    # at all is no way: with that, worker processes hung at their end now and then, and outlived Ray.)
    os.environ.setdefault("RAY_task_events_max_num_task_in_gcs", str(TASKS_REMEMBERED))
    # An actor that asks whether machines are about to be taken away. This one goes with the job.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    ray.init(
        address="local",
        num_cpus=config.num_cpus,
        object_store_memory=config.object_store_mib * 2**20,
        include_dashboard=config.dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=config.worker_logs,
        logging_level=logging.WARNING,
    )


def _join(address: str, config: ClusterConfig) -> None:
    import ray

    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address} is a dashboard's address, not a cluster's",
            where="cluster.address",
            remedy=f"Send the job there: emoray submit VERB --address {address}",
        )
    _assert_reachable(address)
    try:
        ray.init(address=address, log_to_driver=config.worker_logs, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServiceError(
            f"cannot join the Ray cluster: {error}",
            where=address,
            remedy="Check that it runs, and that RAY_AUTH_TOKEN_PATH names its token; `emoray doctor` looks closer",
            kind="no_cluster",
        ) from error


def _assert_reachable(address: str) -> None:
    """Where nothing answers, Ray's client waits a minute and then ends the process without an exception."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto", which Ray resolves
    try:
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ServiceError(
            f"no Ray cluster answers: {error}",
            where=address,
            remedy="Start it, or leave cluster.address and RAY_ADDRESS unset to use this machine",
            kind="no_cluster",
        ) from error


@contextlib.contextmanager
def _token(lake: LakeConfig) -> Iterator[str]:
    """File with the local Ray's token: kept in a local lake, else for this session only.

    Never in the user's home, where Ray itself would put it, and every later Ray on the machine would insist on it.
    """
    store = Lake(lake)
    with contextlib.ExitStack() as stack:
        folder = (
            store.path("ray") if store.is_local else stack.enter_context(tempfile.TemporaryDirectory(prefix="emoray-"))
        )
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, "auth_token")
        # Whole or not at all, and the first one wins: another driver may look for it at this very moment.
        with tempfile.NamedTemporaryFile("w", dir=folder) as draft, contextlib.suppress(FileExistsError):
            draft.write(secrets.token_hex(32))
            draft.flush()
            os.link(draft.name, path)
        yield path
