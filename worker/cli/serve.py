"""`portraits serve`: pages and an API over the jobs of tenants."""

from __future__ import annotations

import logging
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.errors import ExtraMissing
from worker.cli.extras import missing_modules
from worker.cli.options import load_settings
from worker.cli.output import hint, say

if TYPE_CHECKING:
    from jobs.settings import Settings

SERVE_MODULES = ("fastapi", "uvicorn", "prometheus_client")
KEEP_ALIVE_SECONDS, PATIENCE_SECONDS = 15, 20
MOST_CONNECTIONS, BACKLOG = 500, 512


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port; 0 takes one that is free.")] = 8000,
    clerk: Annotated[
        bool, typer.Option("--clerk/--no-clerk", help="Whether to mind a clerk too: see `portraits clerk`.")
    ] = True,
    certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", help="PEM file with the chain, to serve HTTPS without a proxy.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", help="PEM file with the private key of it.")] = None,
) -> None:
    """Serve pages and an API until SIGTERM.

    Whoever asks shows a token of `portraits tokens create`, and sees that token's tenant only.
    """
    missing = missing_modules(SERVE_MODULES)
    if missing:
        wanted = "pip install 'hyperlora-portraits[serve]'"
        raise ExtraMissing(f"`portraits serve` needs {wanted}; not installed: {', '.join(missing)}")
    if (certificate is None) != (key is None):
        raise typer.BadParameter("HTTPS needs both --tls-certificate and --tls-key")

    from jobs import logs
    from jobs.database import Database

    settings = load_settings()
    logs.set_up(settings)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it speaks at each look at the schema
    database = Database.from_settings(settings)
    try:
        database.require_current()
    finally:
        database.dispose()
    _run(settings, host, port, {"ssl_certfile": certificate, "ssl_keyfile": key} if key else {}, with_clerk=clerk)


def _run(settings: Settings, host: str, port: int, tls: dict[str, Any], *, with_clerk: bool) -> None:
    import uvicorn

    from jobs.clerk.child import minded
    from jobs.web.app import create_app
    from jobs.web.connections import PatientForAWhile

    app = create_app(settings)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(host, port))
        # uvicorn ends in good order at these and then raises them again; by then there is nothing left to interrupt.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(
            app,
            http=PatientForAWhile,
            log_config=None,
            # Our own line for each request leaves out what stands behind `?`: it may be a signature.
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.serve_proxies),
            forwarded_allow_ips=settings.serve_proxies or None,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=PATIENCE_SECONDS,
            ws="none",
            **tls,
        )
        if with_clerk:
            stack.enter_context(minded(settings))
        where = f"[{host}]" if ":" in host else host
        say(f"serving on http{'s' if tls else ''}://{where}:{listener.getsockname()[1]}")
        hint("log in with a token: `portraits tokens create NAME` makes one; /api/v1/openapi.json describes the API")
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises SettingsInvalid where it cannot."""
    from jobs.errors import SettingsInvalid

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsInvalid(
            f"cannot listen on {host}:{port} ({error.strerror}); choose other --host, --port"
        ) from error
