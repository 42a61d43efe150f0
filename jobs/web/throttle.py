"""Wrong tokens are counted by the address they come from: after a few, wrong ones from there are told to wait.

A token cannot be guessed, so this is not what keeps anybody out, and a right one is never kept waiting: it tells a
program with a wrong one to stop asking. In this process's memory, bounded; an address is an IPv4 address, or the 64
bits of an IPv6 network.
"""

from __future__ import annotations

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

    def wrong(self, address: str) -> None:
        """Count a wrong token. Raises TooManyAttempts while too many have come from there lately."""
        name = _network(address)
        with self._lock:
            lately = self._recent(name)
            if len(lately) >= MOST_WRONG:
                raise TooManyAttempts
            self._wrong[name] = [*lately, self._clock()]
            self._wrong.move_to_end(name)
            if len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def _recent(self, name: str) -> list[float]:
        since = self._clock() - WINDOW_SECONDS
        return [moment for moment in self._wrong.get(name, ()) if moment > since]


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
