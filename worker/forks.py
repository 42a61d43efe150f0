"""A child is forked only while the parent's threads are between two turns.

A child gets a copy of everything, also of locks that a thread of its parent holds in that moment, and nobody in the
child lets them go. SQLite keeps in memory which of a process's connections holds the write lock: a child that was
forked in the middle of the reaper's transaction, as the successor of one that was killed, could never write again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A turn that lasts longer waits for a server, and so may a successor, but the broker's heartbeats may not.
LONGEST_WAIT_SECONDS = 10.0


class Turns:
    """The turns of one thread: `os.fork` waits until none is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_held = False
        os.register_at_fork(before=self._wait, after_in_parent=self._go_on, after_in_child=self._renew)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """No child is forked in this block."""
        with self._lock:
            yield

    def _wait(self) -> None:
        self._is_held = self._lock.acquire(timeout=LONGEST_WAIT_SECONDS)

    def _go_on(self) -> None:
        if self._is_held:
            self._lock.release()
        self._is_held = False

    def _renew(self) -> None:
        self._lock, self._is_held = threading.Lock(), False
