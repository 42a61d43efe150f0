"""What stands in front of every request: a bound on its body, headers on its answer, a line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
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
YEAR_SECONDS = 31_536_000
_ASKED_OFTEN = ("/healthz", "/readyz", "/metrics")
_TOO_LARGE = "The body has more than {limit} bytes, the most that is allowed here."


class BoundBody:
    """Refuses a body that is larger than allowed for its address, before reading it where its length is told."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

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
        await self._app(scope, _bounded(receive, limit), send)

    def _limit(self, method: str, path: str) -> int:
        if method == "PUT" and "/uploads/" in path:
            return self._settings.max_photo_bytes
        if method == "POST" and path.endswith("/jobs"):
            return self._settings.max_manifest_bytes
        return SMALL_BODY_BYTES


def _bounded(receive: Receive, limit: int) -> Receive:
    """Raises HTTPException 413 behind the limit, 408 when nothing comes for too long."""
    seen, ended = 0, False

    async def receive_bounded() -> Message:
        nonlocal seen, ended
        if ended:
            return await receive()
        try:
            with anyio.fail_after(IDLE_SECONDS):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, f"Nothing was sent for {IDLE_SECONDS:g} s.") from error
        ended = message["type"] != "http.request" or not message.get("more_body", False)
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _TOO_LARGE.format(limit=limit))
        return message

    return receive_bounded


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
