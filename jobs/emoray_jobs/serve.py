"""emoray serve: run the scoring application here or on a cluster until Ctrl-C, or print its Serve config.

The nodes of a cluster must have emoray installed (infra/ has the image) and reach the lake and the tracking store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.text import Text

from emoray.errors import ConfigError, ServiceError
from emoray.lake.tables import Lake
from emoray_jobs.cluster.session import cluster_address, session
from emoray_jobs.progress import spinner

if TYPE_CHECKING:
    from emoray_jobs.config import Config
    from emoray_serving.config import AppConfig

WATCH_S = 2.0
#: Between two looks at an application that starts: each costs tenths of a second of the cores that it starts on.
STATUS_S = 0.5
_HEADER = """\
# Serve config of emoray, made by `emoray serve --build`: for `serve deploy`,
# and for KubeRay as serveConfigV2. args: the differences from the preset.
# deployments: the scaling, which overrides args.
"""


@dataclass(frozen=True)
class ServeResult:
    """What `emoray serve` did.

    Attributes:
        config_yaml: The Serve config, if it was asked for instead of running anything.
        url: Where the application answers.
        left_running: Whether it still does (`--detach`).
    """

    config_yaml: str | None = None
    url: str | None = None
    left_running: bool = False


def run(
    config: Config, *, build: bool = False, detach: bool = False, message: Callable[[str], None] | None = None
) -> ServeResult:
    """Start the application, say how to call it, and block until Ctrl-C (or SIGTERM).

    Args:
        config: The configuration; `cluster.address` decides between a Ray of this machine's own and a running cluster.
        detach: Return once the application runs and leave it to the cluster.
        message: Receives each line of news; by default they go to stderr.

    Raises:
        ConfigError: `detach` without a cluster, whose end would be the application's end.
        ServiceError: The port is taken, or the application does not come up.
    """
    if build:
        return ServeResult(config_yaml=serve_config(config))
    message = message or Console(stderr=True, highlight=False, soft_wrap=True).print
    if detach and cluster_address(config.cluster) is None:
        raise ConfigError(
            "a local Ray ends with this command, and the application with it",
            where="--detach",
            remedy="Name a cluster with --set cluster.address=HEAD:6379, or leave --detach out",
        )
    with running(config, keep=detach) as url:
        for line in _greeting(url, config.tracking.model_name, config.serve.scorer.alias):
            message(line)
        if detach:
            message("It stays on the cluster; `serve shutdown` there ends it.")
            return ServeResult(url=url, left_running=True)
        message("Ctrl-C ends it.")
        _follow(url, message)
    return ServeResult(url=url)


@contextlib.contextmanager
def running(config: Config, *, keep: bool = False) -> Iterator[str]:
    """Have the application for the time of a block.

    Args:
        keep: Leave it running afterwards (on a cluster that outlives this process).

    Yields:
        Its address, once it takes requests. Whether it has a model yet is another matter: see /readyz.

    Raises:
        ServiceError: The port is taken, or the application does not come up.
        MissingExtraError: The describer is to run vLLM here, which is not installed.
    """
    from emoray_serving.config import AppConfig

    tracking = config.tracking
    if tracking.uri is None and os.environ.get("MLFLOW_TRACKING_URI"):
        tracking = tracking.model_copy(update={"uri": os.environ["MLFLOW_TRACKING_URI"]})
    # The lake is named absolutely: replicas run in other folders.
    app_config = AppConfig(
        lake=Lake(config.lake).config, tracking=tracking, annotate=config.annotate, serve=config.serve
    )
    if cluster_address(config.cluster) is None:
        from emoray_serving.describer import check_engine

        _assert_port_is_free(app_config)
        check_engine(config.serve.describer.engine)  # on a cluster each replica does so
    with session(config.cluster, config.lake):
        with spinner("starting the scoring application"):
            started_serve = _start(app_config)
        try:
            yield url_of(app_config)
        finally:
            if not keep:
                with spinner("ending the scoring application"):
                    _stop(app_config, everything=started_serve)


def serve_config(config: Config) -> str:
    """The Serve config as YAML, its paths as configured: they are the cluster's to resolve."""
    from emoray_serving.app import serve_schema
    from emoray_serving.config import AppConfig

    app_config = AppConfig(lake=config.lake, tracking=config.tracking, annotate=config.annotate, serve=config.serve)
    return _HEADER + yaml.safe_dump(serve_schema(app_config), sort_keys=False, allow_unicode=True)


def url_of(app_config: AppConfig) -> str:
    """Address of the application as seen from this machine."""
    http = app_config.serve.http
    host = "127.0.0.1" if http.host in ("0.0.0.0", "::") else http.host
    return f"http://{host}:{http.port}{app_config.serve.route_prefix.rstrip('/')}"


def render(result: ServeResult) -> Text:
    """What to print at the end."""
    if result.config_yaml is not None:
        return Text(result.config_yaml, end="")
    return Text(
        f"The application runs at {result.url}" if result.left_running else f"The application at {result.url} has ended"
    )


def _greeting(url: str, model_name: str, alias: str) -> list[str]:
    return [
        f"emoray is at {url}  (page: {url}/  API: {url}/docs  metrics: {url}/metrics)",
        f"It serves {model_name}@{alias} and takes up a new version by itself.",
        "Try it:",
        f"  curl -X POST '{url}/v1/score' -H 'Content-Type: audio/wav' --data-binary @clip.wav",
    ]


def _assert_port_is_free(app_config: AppConfig) -> None:
    http = app_config.serve.http
    with socket.socket(socket.AF_INET6 if ":" in http.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            raise ServiceError(
                f"cannot listen on port {http.port}: {error.strerror}",
                where=http.host,
                remedy="Choose another with --set serve.http.port=PORT",
                kind="port_in_use",
            ) from error


def _start(app_config: AppConfig) -> bool:
    """Deploy the application; says whether Serve itself was started for it."""
    from ray import serve

    from emoray_serving.app import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the replicas keep their logs
    fresh = not serve.status().proxies
    http = app_config.serve.http
    serve.start(
        proxy_location=http.proxy_location,
        http_options={
            "host": http.host,
            "port": http.port,
            "request_timeout_s": http.request_timeout_s,
            "keep_alive_timeout_s": http.keep_alive_timeout_s,
        },
    )
    target = serve.RunTarget(
        target=application(app_config), name=app_config.serve.app_name, route_prefix=app_config.serve.route_prefix
    )
    try:
        serve.run_many([target], wait_for_applications_running=False)
        _until_running(app_config)
    except BaseException:
        _stop(app_config, everything=fresh)
        raise
    return fresh


def _until_running(app_config: AppConfig) -> None:
    """Wait for all deployments.

    Raises:
        ServiceError: They fail, or take longer than `serve.ready_timeout_s`.
    """
    from ray import serve

    own = app_config.serve
    deadline = time.monotonic() + own.ready_timeout_s
    while True:
        application = serve.status().applications[own.app_name]
        if application.status == "RUNNING":
            return
        if application.status == "DEPLOY_FAILED" or time.monotonic() > deadline:
            reasons = [f"{name}: {one.message}" for name, one in application.deployments.items() if one.message]
            said = "; ".join(reasons) or application.message or "no reason given"
            raise ServiceError(
                f"the application does not come up ({application.status.lower()}): {said}",
                remedy="See the logs under /tmp/ray/session_latest/logs/serve; more time: serve.ready_timeout_s",
                kind="deploy_failed",
            )
        time.sleep(STATUS_S)


def _stop(app_config: AppConfig, *, everything: bool) -> None:
    from ray import serve

    if everything:
        serve.shutdown()
    else:
        serve.delete(app_config.serve.app_name)


def _follow(url: str, message: Callable[[str], None]) -> None:
    """Tell about versions that come and fail, until interrupted."""
    import httpx

    interrupted = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: interrupted.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    told: dict[str, Any] = {}
    try:
        while not interrupted.wait(WATCH_S if told else 0.1):
            try:
                status = httpx.get(f"{url}/v1/model", timeout=10).json()
            except httpx.HTTPError as error:
                status = {"unreachable": str(error) or type(error).__name__}
            for line in news(told, status):
                message(line)
            told = status
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def news(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lines on what changed between two answers of /v1/model (an empty one before the first)."""
    if "unreachable" in now:
        return [] if "unreachable" in before else [f"The application does not answer: {now['unreachable']}"]
    lines = []
    if now["version"] != before.get("version"):
        lines.append(f"Serving version {now['version']} of {now['name']}.")
    elif now["version"] is None and not before:
        lines.append(
            f"No version of {now['name']} is {now['alias']} yet: requests get 503 no_champion until one is promoted."
        )
    failure = now.get("failure")
    if failure and failure["message"] != (before.get("failure") or {}).get("message"):
        staying = f"staying with version {now['version']}" if now["version"] else "nothing to serve"
        lines.append(f"Version {failure['version']} does not load: {failure['message']} ({staying})")
    return lines
