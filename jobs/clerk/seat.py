"""The seat of a home's clerk: a lock on a file, so that eight workers of one machine start one clerk, not eight.

The lock is the clerk's own and ends with it, however that ends. It only saves memory: two clerks do no harm.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)
FILE = "clerk.lock"


class Seat:
    """Taken by one process of a home at a time."""

    TAKEN = 75
    """The exit status of a clerk that found the seat taken (EX_TEMPFAIL)."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._file: int | None = None

    def take(self) -> bool:
        """Take the seat until this process ends; False when another one has it.

        Where the home cannot be written, or knows no locks, nobody can see who sits: then everybody may.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            log.info("no seat for a clerk at %s, so there may be several: %s", self._path, error)
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError as error:  # a file system without locks
            os.close(file)
            log.info("no seat for a clerk at %s, so there may be several: %s", self._path, error)
            return True
        self._file = file
        return True

    def leave(self) -> None:
        """Let another one sit down."""
        if self._file is not None:
            # Unlocked, not only closed: a child that was forked meanwhile holds the same lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None

    def is_taken(self) -> bool:
        """Whether somebody sits there now."""
        if self.take():
            self.leave()
            return False
        return True
