"""An OpenTelemetry collector to test with: takes OTLP over HTTP, and keeps the spans that come."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """Where spans are sent, and what has come: each with the name of the service that sent it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._changed = threading.Condition()
        self._spans: list[tuple[str, Span]] = []

    def take(self, body: bytes) -> None:
        """One request of an exporter."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            for resource in request.resource_spans:
                told = {one.key: one.value.string_value for one in resource.resource.attributes}
                self._spans += [(told["service.name"], s) for scope in resource.scope_spans for s in scope.spans]
            self._changed.notify_all()

    def wait_for(self, count: int, name: str, seconds: float = 60.0) -> list[tuple[str, Span]]:
        """Everything that has come, when so many spans of this name have."""
        with self._changed:
            enough = self._changed.wait_for(lambda: sum(span.name == name for _, span in self._spans) >= count, seconds)
            names = sorted(span.name for _, span in self._spans)
            assert enough, f"not {count} spans {name!r} in {seconds:g} s; there are {names}"
            return list(self._spans)


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """A receiver on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        """Hands on what is posted to the path of traces."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path != "/v1/traces":
                self.send_error(404)
                return
            receiver.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
