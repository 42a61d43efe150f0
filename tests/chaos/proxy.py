"""A way to the store that can be made bad: every request answered with 503, or every byte late."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

Weather = Literal["fair", "503", "slow"]
ANSWER = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 51\r\nConnection: close\r\n\r\n"
    b"<Error><Code>ServiceUnavailable</Code>   </Error>  "
)
LATE_SECONDS = 0.3
CHUNK = 65_536


class Proxy:
    """Passes connections on to `target`; hosts in requests stay what they are, so that signatures hold."""

    def __init__(self, target: str) -> None:
        self.weather: Weather = "fair"
        self.refused = self.passed = 0
        self._pause = threading.Event()
        parts = urlsplit(target)
        self._target = (str(parts.hostname), int(parts.port or 80))
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Listen no more."""
        self._pause.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            if self.weather == "503":
                self._refuse(client, client.recv(CHUNK))
                return
            self.passed += 1
            with socket.create_connection(self._target) as server:
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server, refuses=True)
                back.join()

    def _pump(self, source: socket.socket, target: socket.socket, *, refuses: bool = False) -> None:
        """Pass on what comes until it ends; a connection that is kept is refused too when the weather turns."""
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if refuses and self.weather == "503":
                    self._refuse(source, data)
                    break
                if self.weather == "slow":
                    self._pause.wait(LATE_SECONDS)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _refuse(self, client: socket.socket, began: bytes) -> None:
        """Answer when the request's head is read, as an overloaded server does."""
        while began and b"\r\n\r\n" not in began:
            more = client.recv(CHUNK)
            if not more:
                return
            began += more
        self.refused += 1
        client.sendall(ANSWER)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(2)
        while client.recv(CHUNK):  # read to the end, or the answer might be lost with the connection
            pass
