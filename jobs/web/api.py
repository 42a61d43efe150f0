"""The API: its two halves under `/api/v1`, described by one OpenAPI document."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jobs.web import api_reading, api_writing
from jobs.web.problems import add_handlers
from jobs.web.responses import as_problems
from jobs.web.services import Services

PREFIX = "/api/v1"
_ABOUT = """Jobs, people and pictures of the tenant that the token is of; with a token that may write, photos are sent
and jobs enqueued. Ids of others are answered as what does not exist. Lists are read a page at a time: `next` of one
page is `after` of the next. Refusals are problems (RFC 9457) with a stable `code`."""


class Api(FastAPI):
    """An application whose document tells refusals as problems."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = as_problems(super().openapi())
        return self.openapi_schema


def _version() -> str:
    try:
        return version("hyperlora-portraits")
    except PackageNotFoundError:
        return "0"


def create_api(services: Services) -> FastAPI:
    """The API over these services."""
    app = Api(
        title="Portraits",
        version=_version(),
        description=_ABOUT,
        servers=[{"url": PREFIX}],
        root_path_in_servers=False,
        # A page with the document as people read it would load a foreign script: `/api` is ours.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A redirect would name the host that the client has named.
        redirect_slashes=False,
    )
    app.state.services = services
    app.include_router(api_reading.router)
    app.include_router(api_writing.router)
    add_handlers(app)

    async def document(request: Request) -> Response:
        return JSONResponse(app.openapi())

    app.add_route("/openapi.json", document, include_in_schema=False)
    return app
