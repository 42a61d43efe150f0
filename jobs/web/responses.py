"""How the answers of the API are described."""

from __future__ import annotations

from typing import Any

from jobs.web.problems import Problem

Responses = dict[int | str, dict[str, Any]]

REFUSED: Responses = {
    401: {"model": Problem, "description": "No valid token."},
    422: {"model": Problem, "description": "The request is not what was wanted."},
    429: {"model": Problem, "description": "Too much at once, or over a limit; see `Retry-After`."},
    503: {"model": Problem, "description": "Database or store do not answer; see `Retry-After`."},
}
NOT_FOUND: Responses = {404: {"model": Problem, "description": "Nothing of this name, or not this tenant's."}}
READ_ONLY: Responses = {403: {"model": Problem, "description": "The token may only read."}}
TOO_LARGE: Responses = {413: {"model": Problem, "description": "The body is larger than is allowed."}}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}


def picture_responses(what: str) -> Responses:
    """A picture, or where it is."""
    media = {name: _PICTURE for name in ("image/png", "image/jpeg", "image/webp")}
    return {
        200: {"description": what, "content": media},
        304: {"description": "It is the one that the client has."},
        307: {"description": "It is there, for a few minutes."},
        **NOT_FOUND,
    }


def as_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with every refusal as `application/problem+json`."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                if status >= "400" and "application/json" in content:
                    answer["content"] = {"application/problem+json": content.pop("application/json")}
    return document
