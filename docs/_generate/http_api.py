"""The page of the HTTP API, from the OpenAPI document that the service shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from _generate.words import Schema, anchor, as_yaml, describe, table


def openapi() -> dict[str, Any]:
    """The OpenAPI document that the service shows at /openapi.json."""
    from emoray_serving.config import AppConfig, load_app_config
    from emoray_serving.http.api import ScoringService, create_app

    config: AppConfig = load_app_config({})
    # The routes' document does not depend on what scores behind them.
    return create_app(cast(ScoringService, None), config.serve.limits).openapi()


def page() -> str:
    """Markdown of the HTTP API."""
    document = openapi()
    definitions = document["components"]["schemas"]
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(f"{method.upper()} {path}", operation, definitions)
    parts.append("## Schemas")
    for title, schema in definitions.items():
        parts += [f"({anchor(title)})=\n\n### {title}", " ".join(schema.get("description", "").split())]
        parts.append(table(("field", "type", "meaning"), _fields(schema, definitions)))
    return "\n\n".join(part for part in parts if part)


def _operation(title: str, operation: Schema, definitions: Mapping[str, Schema]) -> list[str]:
    parts = [f"## {title}", f"{operation['summary']}."]
    if operation.get("parameters"):
        rows = [
            (
                f"`{one['name']}`",
                describe(one["schema"], definitions),
                _default(one["schema"]),
                one.get("description", ""),
            )
            for one in operation["parameters"]
        ]
        parts.append(table(("parameter", "type", "default", "meaning"), rows))
    if "requestBody" in operation:
        types = ", ".join(f"`{name}`" for name in operation["requestBody"]["content"])
        parts.append(f"Body: {types}.")
    parts.append(table(("status", "body", "meaning"), _replies(operation["responses"], definitions)))
    example = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("example")
    if example:
        parts.append(f"An example of the reply:\n\n```json\n{json.dumps(example, indent=2)}\n```")
    return parts


def _replies(responses: Schema, definitions: Mapping[str, Schema]) -> list[tuple[str, ...]]:
    rows = []
    for status, reply in responses.items():
        bodies = [body["schema"] for body in reply.get("content", {}).values() if body.get("schema")]
        shown = ", ".join(describe(body, definitions) for body in bodies)
        rows.append((f"`{status}`", shown or "–", reply["description"]))
    return rows


def _fields(schema: Schema, definitions: Mapping[str, Schema]) -> list[tuple[str, ...]]:
    return [
        (f"`{name}`", describe(its, definitions), its.get("description", ""))
        for name, its in schema.get("properties", {}).items()
    ]


def _default(schema: Schema) -> str:
    return f"`{as_yaml(schema['default'])}`" if "default" in schema else "–"
