"""What one shift drew, and how long its device drew and stood still."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Drawn:
    """Counts and seconds of one shift.

    Parameters
    ----------
    renders
        Pictures that were begun.
    pictures
        Pictures of all batches, follow-ups included.
    places
        What these batches could have held.
    mixed
        Batches of several people.
    sizes
        How many batches there were of each number of pictures.
    seconds_drawing, seconds_between, seconds_before
        In which a batch was drawn, those between batches, and those before the first one.
    """

    renders: int = 0
    pictures: int = 0
    places: int = 0
    batches: int = 0
    mixed: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    seconds_drawing: float = 0.0
    seconds_between: float = 0.0
    seconds_before: float = 0.0
    _still_since: float = field(default_factory=time.monotonic)

    @property
    def idle_share(self) -> float:
        """The part of the time from the first batch to the last in which no batch was drawn, 0 to 1."""
        whole = self.seconds_drawing + self.seconds_between
        return self.seconds_between / whole if whole else 0.0

    @property
    def fill(self) -> float:
        """How full the batches were, 0 to 1: pictures for each place."""
        return self.pictures / self.places if self.places else 0.0

    def add_batch(self, pictures: int, largest: int, *, firsts: int, mixed: bool) -> None:
        """Count one batch that was drawn; `largest` is what would have been tried."""
        self.batches += 1
        self.mixed += mixed
        self.renders += firsts
        self.pictures += pictures
        self.places += max(largest, pictures)
        self.sizes[pictures] += 1

    def add_time(self, began: float) -> None:
        """A batch was drawn from this moment on, by the monotonic clock, until now."""
        still = began - self._still_since
        if self.seconds_drawing:
            self.seconds_between += still
        else:
            self.seconds_before = still
        self._still_since = time.monotonic()
        self.seconds_drawing += self._still_since - began
