"""One POST to one endpoint: to an address that was checked, within a deadline, following nothing.

httpcore underneath, with a network of our own: names are resolved and checked here, and the connection goes to the
number that was checked, while TLS still wants a certificate of the name. Proxies of the environment are not asked, as
they would resolve names themselves. A whole exchange ends by its deadline, however slowly the other side drips.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpcore
import httpx

from jobs.errors import WebhookSilent
from jobs.webhooks.addresses import Resolver, Rules, allowed_addresses, check_url, system_resolver

MOST_BYTES = 64 * 1024  # of an answer, which nobody reads
BODY_SECONDS = 1.0
LONGEST_RETRY_AFTER = 86_400.0


@dataclass(frozen=True)
class Answer:
    """What an endpoint said: its status, and for how many seconds it wants to be left alone."""

    status: int
    retry_after: float | None = None


class _Stream(httpcore.NetworkStream):
    """A connection on which everything ends by the deadline of the exchange."""

    def __init__(self, stream: httpcore.NetworkStream, network: _Network) -> None:
        self._stream, self._network = stream, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._network.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    """Connects to checked addresses alone."""

    def __init__(self, rules: Rules, resolver: Resolver) -> None:
        self._rules, self._resolver, self.ends_at = rules, resolver, 0.0
        self._sockets = httpcore.SyncBackend()

    def left(self, timeout: float | None, too_late: type[Exception]) -> float:
        """The seconds until the deadline, or `timeout` if that is less. Raises `too_late`."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise too_late("the deadline has passed")
        return left if timeout is None else min(left, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        fault: Exception = httpcore.ConnectError("no address")
        asked = self.left(timeout, httpcore.ConnectTimeout)
        for address in allowed_addresses(host, port, self._rules, self._resolver, seconds=asked):
            left = self.left(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._sockets.connect_tcp(str(address), port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
            else:
                return _Stream(stream, self)
        raise fault


class Connection:
    """Speaks to one endpoint, over one connection that is kept for the next message; for one thread."""

    def __init__(self, url: str, rules: Rules, *, timeout_seconds: float, resolver: Resolver = system_resolver) -> None:
        self._url, self._rules, self._timeout = url, rules, timeout_seconds
        self._network = _Network(rules, resolver)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=1,
            keepalive_expiry=5.0,
            network_backend=self._network,
        )

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send it once. Raises WebhookRefused for an address that is not allowed, WebhookSilent for no answer."""
        check_url(self._url, self._rules)
        self._network.ends_at = time.monotonic() + self._timeout
        try:
            with self._pool.stream(
                "POST",
                self._url,
                headers=list(headers.items()),
                content=body,
                extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)},
            ) as response:
                answer = Answer(response.status, _retry_after(response.headers))
                self._drain(response)
                return answer
        except httpcore.TimeoutException as error:
            raise WebhookSilent(f"no answer within {self._timeout:g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise WebhookSilent(f"{type(error).__name__}: {_told(error)}") from error

    def _drain(self, response: httpcore.Response) -> None:
        """Let go of the answer's body: what was said stands in the status. Short ones keep the connection alive."""
        self._network.ends_at = min(self._network.ends_at, time.monotonic() + BODY_SECONDS)
        size = 0
        try:
            for part in response.iter_stream():
                size += len(part)
                if size > MOST_BYTES:
                    return
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
            return


def _told(error: Exception) -> str:
    """The system's or the library's own words, which repeat nothing of what the other side sent."""
    if isinstance(error, httpcore.ProtocolError):
        return "the other side does not speak HTTP"
    return re.sub(r"[^ -~]", "?", str(error))[:200] or "the connection failed"


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float | None:
    """The seconds that a Retry-After asks for, in either form; None for none, or for one that cannot be read."""
    text = next((value for name, value in headers if name.lower() == b"retry-after"), b"").decode("latin-1").strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return min(float(text), LONGEST_RETRY_AFTER)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(until - time.time(), 0.0), LONGEST_RETRY_AFTER)
