"""A private folder for what a running worker tells of itself: when it last asked for work, and its counters.

One for each worker's parent, in `run` of its home, under a lock that lasts as long as the parent and its child do. A
process id alone says nothing on a volume that containers share; a lock that can be taken belongs to nobody any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FOLDER, LOCK = "run", "lock"


class RunFolder:
    """One worker's folder."""

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path, self._lock = path, lock

    @classmethod
    def make(cls, home: Path) -> RunFolder:
        """A new one for this process; those of workers that are gone are removed. Raises OSError."""
        for left in cls.all(home):
            left.remove_if_dead()
        while True:
            path = home / FOLDER / f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            path.mkdir(parents=True, mode=0o700)
            lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (path / LOCK).is_file():
                return cls(path, lock)
            os.close(lock)  # another worker that begins took it for one that was left, before it was locked

    @classmethod
    def all(cls, home: Path) -> Iterator[RunFolder]:
        """Those of every worker of this home, running or not."""
        folder = home / FOLDER
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if (path / LOCK).is_file():
                yield cls(path)

    @classmethod
    def running_here(cls, home: Path) -> list[RunFolder]:
        """Those of the workers that run on this machine."""
        return [one for one in cls.all(home) if one.path.name.startswith(f"{_host()}-") and one.is_alive()]

    def is_alive(self) -> bool:
        """Whether its worker, or that one's child, still runs."""
        try:
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
        return False

    def remove_if_dead(self) -> None:
        """Remove what a worker left that is gone, under its lock: who has just made it sees that it is not there."""
        try:
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another one removes it
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.path, ignore_errors=True)
        except BlockingIOError:
            return
        finally:
            os.close(lock)

    def close(self) -> None:
        """Remove it and let the lock go: its worker ends."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            with suppress(OSError):
                os.close(self._lock)
            self._lock = None

    def write(self, name: str, text: str) -> None:
        """Replace a small file in it, so that a reader sees the old or the new one. Raises OSError."""
        part = self.path / f".{name}.{os.getpid()}"
        part.write_text(text, encoding="utf-8")
        part.replace(self.path / name)

    def read(self, name: str) -> str | None:
        """A small file in it; None where it is not there."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except OSError:
            return None

    def forget(self, name: str) -> None:
        """Remove a small file in it."""
        with suppress(OSError):
            (self.path / name).unlink()


def _host() -> str:
    return socket.gethostname()[:40].replace("/", "_")


_mine: list[RunFolder] = []


def begin(home: Path) -> RunFolder:
    """Make this worker's folder, which its child inherits. Raises OSError."""
    _mine[:] = [RunFolder.make(home)]
    return _mine[0]


def mine() -> RunFolder | None:
    """The folder of this worker; None in a process that is none."""
    return _mine[0] if _mine else None
