"""How much of one kind is in hand at once for each name, such as a tenant: what is more is told to come again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import TooManyAtOnce


class Places:
    """At most `most` places a name, in this process. For the event loop alone, so it needs no lock."""

    def __init__(self, most: int, of_what: str) -> None:
        self._most, self._of_what = most, of_what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, name: str) -> Iterator[None]:
        """Have a place meanwhile. Raises TooManyAtOnce where there is none."""
        if self._taken[name] >= self._most:
            found = f"wanted at most {self._most} {self._of_what} at once"
            raise TooManyAtOnce(f"{found}; send this one when one has ended")
        self._taken[name] += 1
        try:
            yield
        finally:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
