"""Long lists in parts: a statement takes so many values at most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

CHUNK = 500
T = TypeVar("T")


def parts(values: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The values in their order, so many at a time."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some
