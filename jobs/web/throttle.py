"""Wrong tokens are counted by the address they come from: after a few, that address waits.

A token cannot be guessed, so this is not what keeps anybody out: it keeps those who try from costing the database a
look-up each time. In this process's memory, bounded; an address is an IPv4 address, or the 64 bits of an IPv6 network.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from jobs.errors import TooManyAttempts

MOST_WRONG = 10
WINDOW_SECONDS = 300.0
MOST_ADDRESSES = 10_000


class Throttle:
    """Who has shown how many wrong tokens lately. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()
        self._right: OrderedDict[str, None] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises TooManyAttempts while too many wrong tokens have come from there lately."""
        with self._lock:
            if len(self._recent(_network(address))) >= MOST_WRONG:
                raise TooManyAttempts

    def wrong(self, address: str) -> None:
        """Count a wrong token."""
        name = _network(address)
        with self._lock:
            self._wrong[name] = [*self._recent(name), self._clock()][-MOST_WRONG:]
            self._wrong.move_to_end(name)
            if len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def right(self, text: str) -> None:
        """Remember a token that was good, by its hash."""
        mark = _mark(text)
        with self._lock:
            self._right[mark] = None
            self._right.move_to_end(mark)
            if len(self._right) > MOST_ADDRESSES:
                self._right.popitem(last=False)

    def has_seen(self, text: str) -> bool:
        """Whether this token was good before; it may be over by now."""
        return _mark(text) in self._right

    def _recent(self, name: str) -> list[float]:
        since = self._clock() - WINDOW_SECONDS
        return [moment for moment in self._wrong.get(name, ()) if moment > since]


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
