"""The passes in which people are prepared, as whoever draws beside them sees them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Preparing:
    """Counts the passes of one shift, one at a time; asked by the drawing thread."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._begun = self._ended = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """While people are prepared."""
        with self._turn:
            self._begun += 1
            try:
                yield
            finally:
                self._ended += 1

    @property
    def ended(self) -> int:
        """How many passes have ended."""
        return self._ended

    def was_beside(self, ended: int) -> bool:
        """Whether people were prepared at any time since so many had ended; waits until nobody is."""
        with self._turn:
            return self._begun > ended
