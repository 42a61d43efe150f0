"""Connections over real sockets: which are closed, and which are left their time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from jobs.web import connections
from jobs.web.connections import PatientForAWhile

SECONDS = 0.2
REQUEST = b"GET / HTTP/1.1\r\nHost: portraits.test\r\n\r\n"


@asynccontextmanager
async def connected(answer_after: float = 0.0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an application that answers after so many seconds."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(answer_after)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"here"})

    config = uvicorn.Config(application, lifespan="off", log_config=None, timeout_keep_alive=60)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: PatientForAWhile(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are left a moment only."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", SECONDS)


@pytest.mark.parametrize("said", [b"", b"G", REQUEST[:-2]])
def test_a_connection_that_says_no_whole_request_is_closed(said: bytes) -> None:
    async def meet() -> bytes:
        async with connected() as (reader, writer):
            writer.write(said)
            return await asyncio.wait_for(reader.read(), 30)

    assert asyncio.run(meet()) == b""


def test_headers_that_come_byte_by_byte_do_not_keep_a_connection_open() -> None:
    async def meet() -> bool:
        async with connected() as (reader, writer):
            ended = asyncio.create_task(reader.read())
            writer.write(REQUEST[:-2] + b"X-Long: ")
            for _ in range(1_000):
                await asyncio.wait([ended], timeout=SECONDS / 10)
                if ended.done():
                    break
                writer.write(b"x")
            return ended.done()

    assert asyncio.run(meet())


def test_a_connection_that_is_kept_for_a_further_request_is_closed_within_its_headers() -> None:
    async def meet() -> bytes:
        async with connected() as (reader, writer):
            writer.write(REQUEST)
            assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200")
            writer.write(b"GET / HT")
            return await asyncio.wait_for(reader.read(), 30)

    assert asyncio.run(meet()) == b""


def test_an_answer_may_take_its_time_and_more_may_follow_on_its_connection() -> None:
    async def meet() -> None:
        async with connected(answer_after=3 * SECONDS) as (reader, writer):
            for _ in range(2):
                writer.write(REQUEST)
                assert (await asyncio.wait_for(reader.readuntil(b"here"), 30)).startswith(b"HTTP/1.1 200")

    asyncio.run(meet())
