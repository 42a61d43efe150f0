"""Time taken in turns: every way once a round, in an order that rotates, so that a slow minute is slow for all.

Figures are medians with quartiles; a ratio is taken within each round before the median is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it; all three are the same for a single value."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high, len(values))

    def scaled(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.count)

    def inverse(self, count: float) -> Spread:
        """`count` things in so many seconds, as things a second."""
        return Spread(count / self.median, count / self.high, count / self.low, self.count)

    def told(self, digits: int = 2) -> str:
        """`1.50 [1.48, 1.53]`; without quartiles where there was one value."""
        middle = f"{self.median:.{digits}f}"
        return middle if self.count < 2 else f"{middle} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def json(self) -> dict[str, Any]:
        """For a result."""
        return {"median": self.median, "low": self.low, "high": self.high, "count": self.count}


class Turns:
    """Seconds of every way in every round."""

    def __init__(self, seconds: Mapping[str, Sequence[float]]) -> None:
        self.seconds = {name: list(values) for name, values in seconds.items()}

    def spread(self, name: str) -> Spread:
        """Of one way's seconds."""
        return Spread.of(self.seconds[name])

    def faster(self, name: str, than: str) -> Spread:
        """How many times as fast `name` is: the other's seconds over its own, round by round."""
        pairs = zip(self.seconds[than], self.seconds[name], strict=True)
        return Spread.of([theirs / ours for theirs, ours in pairs])


def take_turns(
    ways: Mapping[str, Callable[[], object]], *, repeat: int, device: torch.device, warm_up: int = 1
) -> Turns:
    """Run every way once a round, `warm_up` rounds that do not count and `repeat` that do.

    A way that answers with a `float` took its own time; of the others the whole call counts, with everything that the
    device was given.
    """
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm_up + repeat):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds = timed(ways[name], device)
            if turn >= warm_up:
                taken[name].append(seconds)
    return Turns(taken)


def timed(act: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, with everything that the device was given, or what it says itself if that is a `float`."""
    wait(device)
    began = time.perf_counter()
    own = act()
    wait(device)
    return own if isinstance(own, float) else time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Until a GPU has done all it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
