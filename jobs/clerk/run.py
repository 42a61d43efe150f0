"""A clerk as a whole process: signals, and the end of whoever minds it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType

from jobs.clerk.process import Clerk
from jobs.clerk.seat import Seat
from jobs.settings import Settings

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


def run(settings: Settings, *, parent: int | None = None) -> int:
    """Be a clerk until SIGTERM or SIGINT; with `parent`, until that process has ended. Returns the exit status.

    One with a parent leaves the keyboard's SIGINT to that one, and ends at once where the home has a clerk already.
    """
    told = threading.Event()

    def tell(_number: int, _frame: FrameType | None) -> None:
        told.set()

    signal.signal(signal.SIGTERM, tell)
    signal.signal(signal.SIGINT, tell if parent is None else signal.SIG_IGN)
    seat = Seat(settings.home)
    if not seat.take() and parent is not None:
        return Seat.TAKEN
    if parent is not None:
        threading.Thread(target=_watch, args=(told,), name="clerk parent", daemon=True).start()
    clerk = Clerk.from_settings(settings)
    clerk.start()
    log.info("a clerk has begun (pid %d)", os.getpid())
    while not told.wait(LOOK_SECONDS):
        # The pipe may be held open by a child that the parent has forked, which outlives it for a while.
        if parent is not None and os.getppid() != parent:
            break
    clerk.stop()
    return 0


def _watch(told: threading.Event) -> None:
    """Wait for the end of the standard input, which the parent holds open."""
    while sys.stdin.buffer.read(1024):
        pass
    told.set()
