"""Answers /metrics and /healthz from a worker's parent, which lives on when the child that draws is killed.

The numbers are the sums of what every child of this worker has counted (files in the run folder), and the state of the
queue, which the database is asked for at most every quarter of a minute. While that is read no child is forked.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from jobs.database import Database
from jobs.queue_metrics import QueueCollector
from jobs.settings import Settings
from worker.forks import Turns
from worker.telemetry.counting import counts_of
from worker.telemetry.runtime import RunFolder
from worker.telemetry.vitals import look

log = logging.getLogger(__name__)
AGAIN_SECONDS, IDLE_SECONDS, LOOK_SECONDS = 5.0, 10.0, 0.5
StartResponse = Callable[..., Any]


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, none of which keeps the worker from ending."""

    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Says nothing, and waits for nobody who says nothing."""

    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each scrape would be most of the log."""


class Exporter:
    """The worker's HTTP port, in threads of its parent."""

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self._settings, self._folder = settings, folder
        self._database, self._turns = Database.from_settings(settings), Turns()
        self._metrics = make_wsgi_app(self._registry(), disable_compression=True)
        self._stop, self._server = threading.Event(), None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        # A child that kept the port open would keep its parent's successor from it.
        os.register_at_fork(after_in_child=self._close_in_child)

    _server: WSGIServer | None

    def start(self) -> None:
        """Begin to answer; where the port is taken, as soon as it is free."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._stop.set()
        self._thread.join(timeout=IDLE_SECONDS)
        self._database.dispose()

    def answer(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """The WSGI application."""
        path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD")
        if method not in {"GET", "HEAD"}:
            return _told(start, "405 Method Not Allowed", {"error": "only GET is answered"})
        if path == "/healthz":
            health = look(self._folder, self._settings)
            status = "200 OK" if health.is_well else "503 Service Unavailable"
            return _told(start, status, {"worker": health.worker, "well": health.is_well, "reason": health.reason})
        if path == "/metrics":
            with self._turns.turn():
                answer: Iterable[bytes] = self._metrics(environ, start)
            return answer
        return _told(start, "404 Not Found", {"error": "there are /metrics and /healthz"})

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(counts_of(self._folder)))  # type: ignore[no-untyped-call]
        registry.register(QueueCollector(self._database))
        return registry

    def _run(self) -> None:
        host, port = self._settings.metrics_host, self._settings.metrics_port
        kind, is_told = _Server6 if ":" in host else _Server, False
        while not self._stop.is_set():
            try:
                self._server = make_server(host, port, self.answer, kind, _Handler)
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                if not is_told:
                    why = "another process has it" if taken else str(error)
                    log.warning("no metrics yet: %s:%d cannot be opened, tried again until it can: %s", host, port, why)
                is_told = True
                self._stop.wait(AGAIN_SECONDS)
                continue
            log.info("metrics at http://%s:%d/metrics", host, self._server.server_port)
            # Not `serve_forever`: whoever shuts that down before it has begun waits for ever.
            self._server.timeout = LOOK_SECONDS
            while not self._stop.is_set():
                self._server.handle_request()
            self._server.server_close()
            return

    def _close_in_child(self) -> None:
        if self._server is not None:
            with suppress(OSError):
                self._server.socket.close()


def _told(start: StartResponse, status: str, told: dict[str, object]) -> list[bytes]:
    start(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps(told).encode() + b"\n"]
