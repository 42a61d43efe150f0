"""The whole application: pages for who is logged in, the API for who shows a token, health for machines.

Pages and API name things alike (`/jobs/…`, `/pictures/…`). `/api/v1/…` is always the API; without that prefix a request
that shows a bearer token is the API's too, and every other one is a page's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs.settings import Settings
from jobs.web import health, pages
from jobs.web.api import PREFIX, create_api
from jobs.web.guards import BoundBody, SafeAnswers
from jobs.web.services import Services

# As many as the database has connections for, so that none waits for one.
THREADS = 16
LET_GO_SECONDS = 30.0
_SITE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_NEVER_API = ("/static/", "/login", "/logout", "/healthz", "/readyz", "/metrics")


def create_app(settings: Settings) -> ASGIApp:
    """The application over these settings. Raises SettingsInvalid."""
    services = Services.open(settings)
    api = create_api(services)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        async with anyio.create_task_group() as group:
            group.start_soon(_let_go, services)
            yield
            group.cancel_scope.cancel()
        services.close()

    site = Starlette(
        routes=[*health.routes(services), *pages.ROUTES],
        exception_handlers=pages.HANDLERS,
        lifespan=lifespan,
    )
    site.router.redirect_slashes = False  # it would lead to the host that the client has named
    site.state.services, site.state.document = services, api.openapi
    both = Dispatch(site, api, services)
    return BoundBody(both, settings)


async def _let_go(services: Services) -> None:
    while True:
        await anyio.sleep(LET_GO_SECONDS)
        services.thumbnails.drop_old()


class Dispatch:
    """Sends each request to the pages or to the API."""

    def __init__(self, site: Starlette, api: ASGIApp, services: Services) -> None:
        def site_policy() -> str:
            images = f"'self' {services.store_origin}".strip()
            return f"{_SITE_POLICY}; img-src {images}"

        is_https = services.settings.serve_url.startswith("https://")

        def over_https(scope: Scope) -> bool:
            return is_https or scope["scheme"] == "https"

        self._site = SafeAnswers(site, site_policy, is_https=over_https)
        self._api = SafeAnswers(api, lambda: _API_POLICY, is_https=over_https)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on; what is not HTTP (the start and end of the server) is the pages'."""
        if scope["type"] != "http":
            await self._site(scope, receive, send)
            return
        path = scope["path"]
        if path == PREFIX or path.startswith(f"{PREFIX}/"):
            await self._api({**scope, "path": path.removeprefix(PREFIX) or "/", "raw_path": b""}, receive, send)
        elif _shows_token(scope) and not path.startswith(_NEVER_API):
            await self._api(scope, receive, send)
        else:
            await self._site(scope, receive, send)


def _shows_token(scope: Scope) -> bool:
    return Headers(scope=scope).get("authorization", "").lower().startswith("bearer ")
