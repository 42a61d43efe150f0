"""Connections that say nothing, or do not come to the end of a request's headers, are closed.

uvicorn ends a connection that is silent behind an answer, and waits for ever before the first request and within its
headers: whoever opened as many as are allowed would keep everybody else out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADER_SECONDS = 15.0
"""So long may it take from a connection's beginning, or a request's first byte, to the end of the request's headers."""
_Base: Any = AutoHTTPProtocol


class PatientForAWhile(_Base):  # type: ignore[misc]
    """uvicorn's own protocol, with an end to its patience."""

    def __init__(self, *told: Any, **named: Any) -> None:
        super().__init__(*told, **named)
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait on, unless the headers are complete."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(error)

    def _watch(self) -> None:
        if not self._is_waiting():
            self._stop()
        elif self._end is None and not self.transport.is_closing():
            self._end = self.loop.call_later(HEADER_SECONDS, self._close)

    def _is_waiting(self) -> bool:
        """Whether no request is in hand: uvicorn makes a cycle of each at the end of its headers."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _close(self) -> None:
        self._end = None
        if self._is_waiting():
            self.transport.close()

    def _stop(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None
