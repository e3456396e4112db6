"""What a JSON schema allows, in words: for the pages of the configuration and of the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Schema = Mapping[str, Any]


def describe(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """What a value may be, in words.

    Args:
        schema: Its JSON schema.
        definitions: Schemas that it may refer to.
    """
    if "$ref" in schema:
        inner = resolve(schema, definitions)
        if "properties" not in inner:
            return describe(inner, definitions)
        return f"[{inner['title']}](#{anchor(inner['title'])})"
    if "enum" in schema or "const" in schema:
        return " | ".join(f"`{as_yaml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " | ".join(describe(one, definitions) for one in schema["anyOf"])
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(describe(one, definitions) for one in schema['prefixItems'])}]"
        return f"list of {describe(schema.get('items', {}), definitions)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {describe(values if isinstance(values, Mapping) else {}, definitions)}"
    bounds = [
        f"{sign} {schema[name]:g}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in schema
    ]
    return " ".join([str(kind or "any value"), ", ".join(bounds)]).strip()


def resolve(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """The schema that a reference leads to; any other schema as it is."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def anchor(title: str) -> str:
    """Target of links to a schema of the HTTP API."""
    return f"schema-{title.lower()}"


def as_yaml(value: Any) -> str:
    """A value on one line, as it would be typed behind `--set key=`."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
