"""A clerk that a worker's parent, or `portraits serve`, starts as a process of its own and minds.

A process, not a thread: a worker's parent forks, and a gallery or a hanging webhook must not stand in its way. It ends
with whoever minds it: its standard input, a pipe, comes to its end then. One that ends by itself is started again,
later each time it comes to an end soon. Of several on one machine with one home, one starts a clerk.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jobs.clerk.seat import Seat
from jobs.settings import Settings

log = logging.getLogger(__name__)
START = Path(__file__).resolve().parent / "start.py"
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
STEADY_SECONDS = 120.0  # one that lived so long is started again at once
SEAT_SECONDS = 10.0
PATIENCE_SECONDS = 8.0


def command() -> list[str]:
    """The command line of a clerk that this process minds."""
    return [sys.executable, "-P", str(START), "--parent", str(os.getpid())]


class ClerkChild:
    """Starts a clerk and keeps one running until `stop`; a thread of the process that minds it."""

    def __init__(self, settings: Settings, argv: Sequence[str] | None = None) -> None:
        self._seat = Seat(settings.home)
        self._argv, self._enabled = argv, settings.clerk != "off"
        self._process: subprocess.Popen[bytes] | None = None
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="clerk", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process id of the clerk that runs, if one does."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> None:
        """Begin; nothing happens where the setting says that no clerk is wanted."""
        if self._enabled:
            self._thread.start()

    def stop(self) -> None:
        """End the clerk, and wait until it has ended."""
        with self._lock:
            self._stop.set()
        if self._process is not None:
            _end(self._process)
        if self._thread.is_alive():
            self._thread.join(timeout=PATIENCE_SECONDS)

    def _run(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while not self._stop.is_set():
            if self._seat.is_taken():
                self._stop.wait(SEAT_SECONDS)
                continue
            began = time.monotonic()
            process = self._begin()
            if process is None:
                return
            status = process.wait()
            _let_go(process)
            lived = time.monotonic() - began
            if self._stop.is_set():
                return
            if status == Seat.TAKEN:  # another one was faster
                continue
            wait = FIRST_WAIT_SECONDS if lived > STEADY_SECONDS else wait
            log.warning(
                "the clerk ended with status %d after %.0f s; it is started again in %.0f s", status, lived, wait
            )
            self._stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _begin(self) -> subprocess.Popen[bytes] | None:
        """Start the process; None when told to stop. Not in a session of its own: it is killed with its group."""
        with self._lock:
            if self._stop.is_set():
                return None
            argv = list(self._argv or command())
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    """Tell it to end, by its pipe and by a signal; kill it if it does not listen."""
    _let_go(process)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("the clerk did not end in %g s and is killed", PATIENCE_SECONDS)
        process.kill()
        process.wait()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Close our end of its pipe."""
    if process.stdin is not None:
        process.stdin.close()


@contextmanager
def minded(settings: Settings) -> Iterator[ClerkChild]:
    """A clerk beside this block, if the setting wants one."""
    child = ClerkChild(settings)
    child.start()
    try:
        yield child
    finally:
        child.stop()
