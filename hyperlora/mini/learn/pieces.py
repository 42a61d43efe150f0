"""Work that falls into pieces, on several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

_Task = TypeVar("_Task")


def each_piece(work: Callable[[_Task], None], tasks: Sequence[_Task], processes: int | None = None) -> None:
    """Do every task, on one process for each core unless told; one process is this one.

    Processes are begun anew, not forked: OpenCV's and torch's threads do not survive a fork, and a child waits for them
    for ever.
    """
    count = min(processes or os.cpu_count() or 1, len(tasks))
    if count <= 1:
        for task in tasks:
            work(task)
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(work, tasks))
