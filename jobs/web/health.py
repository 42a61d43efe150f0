"""What machines ask of this process: whether it lives, whether it can serve, how the queue stands."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from jobs.errors import JobsError
from jobs.queue_metrics import QueueCollector
from jobs.web.services import Services, services_of

log = logging.getLogger(__name__)


async def alive(request: Request) -> Response:
    """The process answers, also while all its threads are busy."""
    return PlainTextResponse("alive\n")


def ready(request: Request) -> Response:
    """Whether the database answers with a schema that this version works on; the reason is a code, no address."""
    try:
        services_of(request).database.require_current()
    except JobsError as error:
        log.warning("not ready: %s", error)
        return JSONResponse({"ready": False, "code": error.code}, 503)
    return JSONResponse({"ready": True})


def routes(services: Services) -> list[Route]:
    """The addresses; the queue's numbers only where the settings allow them."""
    found = [Route("/healthz", alive), Route("/readyz", ready)]
    if services.settings.serve_metrics:
        registry = CollectorRegistry()
        registry.register(QueueCollector(services.database))

        def numbers(request: Request) -> Response:
            return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

        found.append(Route("/metrics", numbers))
    return found
