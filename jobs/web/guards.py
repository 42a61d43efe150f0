"""What stands in front of every request: a bound on its body, headers on its answer, a line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.settings import Settings
from jobs.web.problems import ProblemResponse, of_status

log = logging.getLogger(__name__)
SMALL_BODY_BYTES = 64 * 1024
IDLE_SECONDS = 30.0
"""So long may a client be silent in the middle of a body."""
LEAST_BYTES_PER_SECOND = 16 * 1024
"""So fast has a body to come on the whole, after its first `IDLE_SECONDS`: a photo takes minutes at most, not days."""
BODY_BYTES_AT_ONCE = 128 * 1024 * 1024
"""So much of photos and manifests may be in memory at once, of all clients; two of the largest at least."""
YEAR_SECONDS = 31_536_000
_ASKED_OFTEN = ("/healthz", "/readyz", "/metrics")
_TOO_LARGE = "The body has more than {limit} bytes, the most that is allowed here."


@dataclass
class _Held:
    """How many bytes of bodies are in memory, and may be."""

    most: int
    bytes: int = 0


class BoundBody:
    """Refuses a body that is larger than allowed for its address, before reading it where its length is told."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._held = _Held(max(BODY_BYTES_AT_ONCE, 2 * settings.max_photo_bytes, 2 * settings.max_manifest_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a body that ends at the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["method"], scope["path"])
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and (len(length) > 15 or int(length) > limit):
            problem = of_status(413, _TOO_LARGE.format(limit=limit))
            await ProblemResponse(problem, {"Connection": "close"})(scope, receive, send)
            return
        body = _Body(receive, limit, self._held)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.close()

    def _limit(self, method: str, path: str) -> int:
        if method == "PUT" and "/uploads/" in path:
            return self._settings.max_photo_bytes
        if method == "POST" and path.endswith("/jobs"):
            return self._settings.max_manifest_bytes
        return SMALL_BODY_BYTES


class _Body:
    """One request's body while it comes, and how much of it is in memory."""

    def __init__(self, receive: Receive, limit: int, held: _Held) -> None:
        self._receive, self._limit, self._all = receive, limit, held
        self._seen, self._waited, self._ended = 0, 0.0, False
        self._is_counted = limit > SMALL_BODY_BYTES  # so that logins and announcements go on

    async def receive(self) -> Message:
        """Raises HTTPException: 413 behind the limit, 408 for what comes too slowly, 503 for too much at once."""
        if self._ended:
            return await self._receive()
        message = await self._wait()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        size = len(message.get("body", b""))
        if self._seen + size > self._limit:
            raise HTTPException(413, _TOO_LARGE.format(limit=self._limit))
        if self._is_counted and self._all.bytes + size > self._all.most:
            raise HTTPException(503, "Too much is being sent at once; try again.", {"Retry-After": "10"})
        self._seen += size
        if self._is_counted:
            self._all.bytes += size
        return message

    async def _wait(self) -> Message:
        left = IDLE_SECONDS + self._seen / LEAST_BYTES_PER_SECOND - self._waited
        began = time.monotonic()
        try:
            with anyio.fail_after(max(0.0, min(IDLE_SECONDS, left))):
                return await self._receive()
        except TimeoutError as error:
            least = f"{IDLE_SECONDS:g} s and then {LEAST_BYTES_PER_SECOND} bytes a second"
            raise HTTPException(408, f"The body came too slowly; wanted something within {least}.") from error
        finally:
            self._waited += time.monotonic() - began

    def close(self) -> None:
        """It is in memory no more."""
        if self._is_counted:
            self._all.bytes -= self._seen


class SafeAnswers:
    """Gives every answer the headers that keep browsers from doing more with it than was meant."""

    def __init__(self, app: ASGIApp, policy: Callable[[], str], *, is_https: Callable[[Scope], bool]) -> None:
        self._app, self._policy, self._is_https = app, policy, is_https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with headers that the application has not set itself."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, path, status = time.monotonic(), quote(scope["path"], safe="/"), 0

        async def send_safe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers(scope).items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_safe)
        finally:
            # The path alone: what stands behind `?` may be a signature. What asks every few seconds is not told.
            level = logging.DEBUG if path in _ASKED_OFTEN and status == 200 else logging.INFO
            before, uploads, _ = path.partition("/uploads/")
            told = f"{before}{uploads}..." if uploads else path
            log.log(level, "%s %s %d %.0f ms", scope["method"], told, status, 1000 * (time.monotonic() - began))

    def _headers(self, scope: Scope) -> dict[str, str]:
        told = {
            "Content-Security-Policy": self._policy(),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "Cache-Control": "no-store",
        }
        if self._is_https(scope):
            told["Strict-Transport-Security"] = f"max-age={YEAR_SECONDS}"
        return told
