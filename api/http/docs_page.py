"""GET /docs: the OpenAPI document as one page without script or outside parts, so it works offline. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any, Final

_METHODS: Final = ("get", "post", "put", "patch", "delete")
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
details{border:1px solid #8886;border-radius:.4rem;margin:.4rem 0;padding:.3rem .8rem}
summary{cursor:pointer}code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;background:#8881;padding:.6rem}
b{display:inline-block;min-width:4.5rem}td{padding:.1rem 1rem .1rem 0;vertical-align:top}:root{color-scheme:light dark}
"""


def docs_page(openapi: dict[str, Any]) -> str:
    """One HTML page for an OpenAPI 3.1 document; what a document says is escaped."""
    title = escape(f"{openapi['info']['title']} {openapi['info']['version']}")
    body = "".join(_groups(openapi))
    intro = escape(openapi["info"].get("description", ""))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1><p>{intro}</p><p><a href="/openapi.json">openapi.json</a></p>{body}</html>'
    )


def _groups(openapi: dict[str, Any]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for path, item in openapi["paths"].items():
        for method in _METHODS:
            if method in item:
                tag = item[method].get("tags", ["other"])[0]
                groups.setdefault(tag, []).append(_operation(openapi, path, method, item[method]))
    for tag, operations in groups.items():
        yield f"<h2>{escape(tag)}</h2>{''.join(operations)}"


def _operation(openapi: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code> ",
        f"{escape(operation.get('summary', ''))}</summary>",
        f"<p>{escape(operation.get('description', ''))}</p>",
    ]
    if parameters := operation.get("parameters"):
        rows = "".join(
            f"<tr><td><code>{escape(each['name'])}</code><td>{escape(each['in'])}<td>{_type(each.get('schema', {}))}"
            f"<td>{escape(each.get('description', ''))}"
            for each in parameters
        )
        parts.append(f"<table>{rows}</table>")
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        shown = content.get("example", _resolve(openapi, content.get("schema", {})))
        parts.append(f"<p>body, <code>{escape(media_type)}</code></p><pre>{_json(shown)}</pre>")
    rows = "".join(
        f"<tr><td><code>{escape(status)}</code><td>{escape(answer.get('description', ''))}"
        f"<td>{escape(', '.join(answer.get('content', {})))}"
        for status, answer in sorted(operation.get("responses", {}).items())
    )
    parts.append(f"<table>{rows}</table></details>")
    return "".join(parts)


def _resolve(openapi: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = openapi.get("components", {}).get("schemas", {}).get(name, schema)
    return found


def _type(schema: dict[str, Any]) -> str:
    default = f" = {_json(schema['default'])}" if schema.get("default") is not None else ""
    return escape(str(schema.get("type", ""))) + default


def _json(value: object) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))
