"""Templates and static files, read once when the process starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from jobs.web import words
from jobs.web.access import Caller

FOLDER = Path(__file__).resolve().parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_YEAR = "public, max-age=31536000, immutable"


def _read_static() -> dict[str, tuple[bytes, str]]:
    files = sorted((FOLDER / "static").iterdir())
    return {file.name: (file.read_bytes(), _TYPES[file.suffix]) for file in files if file.suffix in _TYPES}


STATIC = _read_static()
_MARKS = {name: hashlib.sha256(data).hexdigest()[:12] for name, (data, _) in STATIC.items()}


def static_address(name: str) -> str:
    """Where a static file lies; it changes with the file, so that browsers may keep it."""
    return f"/static/{name}?{_MARKS[name]}"


def static_file(request: Request) -> Response:
    """A static file."""
    name = request.path_params["name"]
    if name not in STATIC:
        return HTMLResponse("not found", 404)
    data, media_type = STATIC[name]
    return Response(data, media_type=media_type, headers={"Cache-Control": _YEAR})


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every text of a template goes through here, so that no name turns the direction of what stands around it.
        finalize=lambda value: words.clean(value) if type(value) is str else value,
    )
    names = (
        "number",
        "size",
        "percent",
        "similarity",
        "seconds",
        "span",
        "ago",
        "moment",
        "short",
        "parts",
        "times",
        "prose",
        "capital",
        "sentence",
    )
    made.filters |= {name: getattr(words, name) for name in names}
    made.globals |= {"static": static_address, "total_seconds": words.total_seconds}
    return made


_TEMPLATES = _environment()


def page(
    name: str,
    values: Mapping[str, Any],
    *,
    caller: Caller | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """A page as an answer."""
    text = _TEMPLATES.get_template(name).render(**values, caller=caller)
    return HTMLResponse(text, status, dict(headers or {}))
