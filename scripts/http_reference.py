"""Write docs/reference/http.md from the OpenAPI description: `python scripts/http_reference.py [--check]`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.database import Database
from jobs.settings import Settings
from jobs.web.api import PREFIX, create_api
from jobs.web.services import Services

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference" / "http.md"
HEAD = """# HTTP API

What `portraits serve` answers below `{prefix}`, or without that prefix to whoever shows a token
(`Authorization: Bearer TOKEN`). [Serve](../serve.md) says how to use it; a running server describes itself at
`{prefix}/openapi.json`. A refusal is `application/problem+json` with a stable [`code`](errors.md). This page is
written by `scripts/http_reference.py`.
"""


def described() -> dict[str, Any]:
    """The OpenAPI description."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), database_url="", _env_file=None)  # type: ignore[arg-type, call-arg]
        Database.from_settings(settings).dispose()
        services = Services.open(settings)
        try:
            document: dict[str, Any] = create_api(services).openapi()
        finally:
            services.close()
    return document


def page(document: dict[str, Any]) -> str:
    """The whole page: requests, then what they take and answer."""
    parts = [HEAD.format(prefix=PREFIX)]
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            parts += _request(f"{method.upper()} {path}", one)
    schemas = document["components"]["schemas"]
    parts.append("\n## What is sent and answered\n")
    for name in sorted(schemas):
        parts += _schema(name, schemas[name])
    return "".join(parts)


def _request(title: str, one: dict[str, Any]) -> Iterator[str]:
    words = one.get("description") or one.get("summary") or ""
    yield f"\n## {title}\n\n{_plain(words)}\n"
    if one.get("parameters"):
        yield "\n| parameter | in | type | meaning |\n|---|---|---|---|\n"
        for parameter in one["parameters"]:
            must = ", required" if parameter.get("required") else ""
            meaning = _plain(parameter.get("description", ""))
            where = f"{parameter['in']}{must}"
            yield f"| `{parameter['name']}` | {where} | {_type(parameter['schema'])} | {meaning} |\n"
    for kind, body in one.get("requestBody", {}).get("content", {}).items():
        yield f"\nBody: `{kind}`, {_type(body.get('schema', {}))}.\n"
    yield "\n| status | answer |\n|---|---|\n"
    for status, answer in sorted(one["responses"].items()):
        kinds = ", ".join(f"{_type(body.get('schema', {}))}" for body in answer.get("content", {}).values())
        words = _plain(answer.get("description", "")).rstrip(".")
        yield f"| {status} | {words}{f': {kinds}' if kinds else ''} |\n"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {name}\n"
    if schema.get("description"):
        yield f"\n{_plain(schema['description'])}\n"
    if schema.get("properties"):
        yield "\n| field | type | meaning |\n|---|---|---|\n"
    for field, told in schema.get("properties", {}).items():
        yield f"| `{field}` | {_type(told)} | {_plain(told.get('description', ''))} |\n"
    if "enum" in schema:
        yield "\nOne of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n"


def _type(schema: dict[str, Any]) -> str:
    """A type in words; a name of this page becomes a link."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if either := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(one) for one in either)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("type", "anything"))
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page(described()), encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page(described()):
        sys.exit("docs/reference/http.md is not what the API says; run python scripts/http_reference.py")
