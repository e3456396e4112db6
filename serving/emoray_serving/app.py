"""The application for `serve run`, `serve deploy` and KubeRay: `import_path: emoray_serving.app:build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from emoray import config as settings
from emoray_serving.config import AppConfig, ReplicasConfig, load_app_config
from emoray_serving.describer import Describer
from emoray_serving.gateway import Gateway
from emoray_serving.scorer import ScorerReplica
from emoray_serving.transcriber import Transcriber

IMPORT_PATH = "emoray_serving.app:build"


def build(args: dict[str, Any]) -> Application:
    """Build the application from a Serve config's `args` (see `config.load_app_config`).

    Raises:
        ConfigError: An argument that does not fit.
    """
    return application(load_app_config(args))


def application(config: AppConfig) -> Application:
    """Bind the four deployments: the gateway in front of scorer, transcriber and describer."""
    scorer, transcriber, describer, gateway = (
        serve.deployment(name=name, **replicas.options())(kind) for name, kind, replicas in _deployments(config)
    )
    return gateway.bind(config, scorer.bind(config), transcriber.bind(config), describer.bind(config))


def serve_schema(config: AppConfig) -> dict[str, Any]:
    """The application as a Serve config: `serve deploy` reads it, and KubeRay as `serveConfigV2`.

    `args` holds the differences from the preset `laptop`. `deployments` holds the scaling, where Serve's tools look for
    it; it overrides `args`.
    """
    http = config.serve.http
    preset = settings.load(AppConfig, environ={}).model_dump(mode="json")
    return {
        "proxy_location": http.proxy_location,
        "http_options": {
            "host": http.host,
            "port": http.port,
            "request_timeout_s": http.request_timeout_s,
            "keep_alive_timeout_s": http.keep_alive_timeout_s,
        },
        "applications": [
            {
                "name": config.serve.app_name,
                "route_prefix": config.serve.route_prefix,
                "import_path": IMPORT_PATH,
                "args": {"preset": settings.BASE_PRESET, **difference(preset, config.model_dump(mode="json"))},
                "deployments": [{"name": name, **replicas.options()} for name, _, replicas in _deployments(config)],
            }
        ],
    }


def difference(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be merged into one tree to get another tree with the same keys."""
    changed: dict[str, Any] = {}
    for key, value in other.items():
        if key in base and base[key] == value:
            continue
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        changed[key] = difference(base[key], value) if both else value
    return changed


def _deployments(config: AppConfig) -> list[tuple[str, type, ReplicasConfig]]:
    return [
        ("Scorer", ScorerReplica, config.serve.scorer.replicas),
        ("Transcriber", Transcriber, config.serve.transcriber.replicas),
        ("Describer", Describer, config.serve.describer.replicas),
        ("Gateway", Gateway, config.serve.gateway.replicas),
    ]
