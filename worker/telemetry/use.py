"""How much of the last minutes the device drew, for the worker's row."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from jobs.repository.units import ClaimedUnit
from worker.telemetry.events import BatchDrawn, Observer, Outcome

WINDOW_SECONDS = 120.0
# A shift that is younger tells nothing yet: its first sign of life comes before its first batch, and stands for long.
SHORTEST_SECONDS = 5.0


class DeviceUse(Observer):
    """Remembers when the device drew; a batch that is being drawn counts up to now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._batches: deque[tuple[float, float]] = deque()
        self._since = clock()
        self._drawing_since: float | None = None

    def shift_began(self, profile: str) -> None:
        with self._lock:
            self._batches.clear()
            self._since, self._drawing_since = self._clock(), None

    def batch_began(self, pictures: int) -> None:
        with self._lock:
            self._drawing_since = self._clock()

    def batch_drawn(self, batch: BatchDrawn) -> None:
        with self._lock:
            self._end(self._clock())

    def unit_settled(self, unit: ClaimedUnit, outcome: Outcome, error: Exception | None) -> None:
        with self._lock:
            if error is not None:  # a batch that met a fault tells no end
                self._end(self._clock())

    def share(self) -> float | None:
        """Of the time since the shift began, and of the last minutes at most, 0 to 1; None within its first seconds."""
        with self._lock:
            now = self._clock()
            if now - self._since < SHORTEST_SECONDS:
                return None
            since = max(self._since, now - WINDOW_SECONDS)
            while self._batches and self._batches[0][1] < since:
                self._batches.popleft()
            current = [] if self._drawing_since is None else [(self._drawing_since, now)]
            drawn = sum(ended - max(began, since) for began, ended in (*self._batches, *current))
            return min(1.0, drawn / (now - since))

    def _end(self, now: float) -> None:
        if self._drawing_since is not None:
            self._batches.append((self._drawing_since, now))
        self._drawing_since = None
