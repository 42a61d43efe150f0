"""Bodies: how slowly they may come, and how much of them may be in memory at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.settings import Settings
from jobs.web import guards
from jobs.web.guards import BoundBody
from jobs.web.problems import add_handlers

Receive = Callable[[], Awaitable[dict[str, Any]]]
MANIFESTS, SMALL = ("POST", "/jobs"), ("POST", "/photos")


def application(tmp_path: Path, taken: Callable[[], Awaitable[None]] | None = None) -> BoundBody:
    """One that reads each body, and then does what `taken` does."""

    async def read(request: Request) -> Response:
        size = len(await request.body())
        if taken is not None:
            await taken()
        return Response(str(size))

    inner = Starlette(routes=[Route(path, read, methods=["POST"]) for path in ("/jobs", "/photos")])
    add_handlers(inner)
    limits = {"max_photo_bytes": 100_000, "max_manifest_bytes": 100_000}
    return BoundBody(inner, Settings(home=tmp_path, _env_file=None, **limits))  # type: ignore[arg-type, call-arg]


async def ask(app: BoundBody, address: tuple[str, str], receive: Receive) -> tuple[int, dict[bytes, bytes]]:
    """The status and headers of an answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": address[0],
        "path": address[1],
        "raw_path": address[1].encode(),
        "query_string": b"",
        "headers": [],
        "scheme": "http",
    }
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def chunks(parts: Sequence[bytes]) -> Receive:
    """A body in these parts."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


def test_a_body_that_comes_byte_by_byte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a client that is never silent for long, and sends a byte at a time without end
    monkeypatch.setattr(guards, "IDLE_SECONDS", 0.2)
    count = 0

    async def drip() -> dict[str, Any]:
        nonlocal count
        count += 1
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": count < 10_000}

    # Then it is told that this is too slow, long before its body would end
    status, _ = asyncio.run(ask(application(tmp_path), MANIFESTS, drip))
    assert status == 408 and 1 < count < 50


def test_a_body_that_comes_fast_enough_takes_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a body that takes longer than a client may be silent, and comes at more than the least speed
    monkeypatch.setattr(guards, "IDLE_SECONDS", 0.2)
    left = 10

    async def steady() -> dict[str, Any]:
        nonlocal left
        left -= 1
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x" * 2_000, "more_body": left > 0}

    assert asyncio.run(ask(application(tmp_path), MANIFESTS, steady))[0] == 200


def test_bodies_in_flight_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given as many bodies in hand as may be in memory at once
    monkeypatch.setattr(guards, "BODY_BYTES_AT_ONCE", 0)  # so that twice the largest body counts

    async def meet() -> None:
        arrived, over = asyncio.Semaphore(0), asyncio.Event()

        async def taken() -> None:
            arrived.release()
            await over.wait()

        app = application(tmp_path, taken)
        held = [asyncio.create_task(ask(app, MANIFESTS, chunks([b"x" * 50_000] * 2))) for _ in range(2)]
        for _ in held:
            await arrived.acquire()

        # When one more comes, then it is told to come again; a small one is taken
        status, headers = await ask(app, MANIFESTS, chunks([b"x"]))
        assert (status, int(headers[b"retry-after"]) > 0) == (503, True)
        small = asyncio.create_task(ask(app, SMALL, chunks([b"x"])))
        await arrived.acquire()

        # And when they have ended, there is room again for as much, and no more
        over.set()
        assert [(await one)[0] for one in (*held, small)] == [200] * 3
        assert app._held.bytes == 0
        assert (await ask(app, MANIFESTS, chunks([b"x" * 100_000])))[0] == 200
        assert (await ask(app, MANIFESTS, chunks([b"x" * 100_001])))[0] == 413
        assert app._held.bytes == 0

    asyncio.run(meet())
