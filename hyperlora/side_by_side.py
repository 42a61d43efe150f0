"""Work that leaves Python alone (decoding, resizing, blurring, reading) done by a few threads, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
THREADS = min(8, os.cpu_count() or 1)


def side_by_side(act: Callable[[T], U], items: Sequence[T], threads: int = THREADS) -> list[U]:
    """What `act` makes of each item, in their order; what it raises is raised here.

    One item, or one thread, is no reason to start any.
    """
    if len(items) < 2 or threads < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items)), thread_name_prefix="beside") as pool:
        return list(pool.map(act, items))


def ahead(act: Callable[[T], U], items: Iterable[T], threads: int = THREADS) -> Iterator[U]:
    """The same, one after the other as they are asked for, never more than `threads` results before that."""
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead-of") as pool:
        begun: deque[Future[U]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(act, item))
                if len(begun) > threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()
