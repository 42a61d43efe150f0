"""How fast pictures come, how sure that is, and what it says about the time that is left."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

WINDOW_SECONDS = 60.0
LEAST_STEPS = 3
"""So many times pictures must have come before anything is said of the time that is left."""
LEAST_SPREAD = 0.1  # nobody knows better than that what the next pictures take
QUIET_TIMES, LEAST_QUIET_SECONDS = 4.0, 30.0


@dataclass(frozen=True)
class Left:
    """Seconds that are left: between `least` and `most`, which is None where there is no telling."""

    likely: float
    least: float
    most: float | None


class Speed:
    """Pictures a second over the last minute, from counts as they come.

    It begins with the first change that is seen: the wait before, for a worker that loads its weights, is no drawing.
    Pictures come a batch at a time; how much the time from one to the next varies says how sure the rate is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._steps: deque[tuple[float, int]] = deque()
        self._first: int | None = None
        self.changed_at = clock()

    def add(self, settled: int) -> None:
        """Note how many pictures are settled now."""
        now = self._clock()
        if self._seen and self._seen[-1][1] != settled:
            self.changed_at = now
            if self._seen[0][1] == self._first:
                self._first = None
                self._seen.clear()
            self._note_step(now, settled)
        elif not self._seen:
            self._first = settled
        self._seen.append((now, settled))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    def _note_step(self, now: float, settled: int) -> None:
        if self._steps and settled < self._steps[-1][1]:  # tried again: what was settled is not
            self._steps.clear()
        self._steps.append((now, settled))
        while len(self._steps) > LEAST_STEPS + 1 and now - self._steps[1][0] > WINDOW_SECONDS:
            self._steps.popleft()

    @property
    def per_second(self) -> float | None:
        """Pictures a second; None as long as it is unknown."""
        if len(self._seen) < 2:
            return None
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    @property
    def quiet_seconds(self) -> float:
        """For how long nothing has been settled."""
        return self._clock() - self.changed_at

    @property
    def is_stalled(self) -> bool:
        """Whether nothing has come for much longer than it took before."""
        gaps = [later[0] - sooner[0] for sooner, later in pairwise(self._steps)]
        return self.quiet_seconds > max(LEAST_QUIET_SECONDS, QUIET_TIMES * max(gaps, default=0.0))

    def left(self, waiting: int) -> Left | None:
        """How long so many more pictures take; None as long as there is no telling."""
        rate, spread = self._rate()
        if rate is None or self.is_stalled:
            return None
        slowest = rate * (1 - spread)
        most = waiting / slowest if slowest > 0 else None
        return Left(waiting / rate, waiting / (rate * (1 + spread)), most)

    def _rate(self) -> tuple[float | None, float]:
        """Pictures a second from the first step to the last, and by which share it may be wrong: two standard errors of
        a ratio of sums, as each step is so many pictures in so much time.
        """
        steps = [(later[0] - sooner[0], later[1] - sooner[1]) for sooner, later in pairwise(self._steps)]
        seconds = sum(length for length, _ in steps)
        if len(steps) < LEAST_STEPS - 1 or seconds <= 0:
            return None, 0.0
        rate = sum(pictures for _, pictures in steps) / seconds
        residual = sum((pictures - rate * length) ** 2 for length, pictures in steps) / (len(steps) - 1)
        error = math.sqrt(residual / len(steps)) / (seconds / len(steps))
        return rate, max(LEAST_SPREAD, 2 * error / rate)
