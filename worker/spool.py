"""The spool: finished pictures that cannot be stored or recorded yet, on this machine's own disk.

One file for each picture, written under another name and renamed when it is whole and flushed, so that what has its
name is whole. The folder is private to this user. It is never emptied to make room: who writes waits.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
import time
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.repository.units import ClaimedUnit
from jobs.settings import Settings
from worker.errors import SpoolDamaged, SpoolFull, SpoolUnusable
from worker.spooled import Spooled

log = logging.getLogger(__name__)
ENDING, DAMAGED, UNFINISHED = ".picture", ".damaged", ".part"
ABANDONED_SECONDS = 3600.0
WRITING_SECONDS = 120.0
MAX_PICTURE_BYTES = 1024**3  # with all its forms: no more is read at once
_NAME = re.compile(r"(\d{20})-([0-9a-f-]{36})-(\d{1,19})-([0-9a-f-]{36})\.picture")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FILE = {errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EISDIR}
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Spool:
    """Pictures in one folder, the oldest first; safe to use from several threads and processes."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """The folder is made when something is put into it."""
        self.folder, self._limit = folder, limit_bytes

    @classmethod
    def from_settings(cls, settings: Settings) -> Spool:
        """The spool of this home, or the one that `PORTRAITS_SPOOL` names."""
        folder = settings.spool or settings.home / "spool"
        return cls(folder.expanduser().absolute(), settings.spool_bytes)

    def put(self, picture: Spooled) -> None:
        """Keep a picture; it is whole on the disk when this returns.

        Raises: SpoolFull when it is over the limit or the disk is full, SpoolUnusable.
        """
        data, unit = picture.dump(), picture.unit
        used = self.used_bytes()
        if used + len(data) > self._limit:
            raise SpoolFull(
                f"{used} bytes of finished pictures wait in {self.folder}, at most {self._limit} may; they go when "
                "store and database answer, or raise PORTRAITS_SPOOL_BYTES"
            )
        name = f"{time.time_ns():020d}-{unit.id}-{unit.lease_token}-{picture.render_id}{ENDING}"
        with self._opened(make=True) as folder:
            _write_whole(folder, name, data)

    def names(self) -> list[str]:
        """What waits, the oldest first. Raises SpoolUnusable."""
        return sorted(name for name in self._all() if _NAME.fullmatch(name))

    def damaged(self) -> list[str]:
        """What was set aside because it cannot be read. Raises SpoolUnusable."""
        return sorted(name for name in self._all() if name.endswith(DAMAGED))

    def holds(self, unit: ClaimedUnit) -> bool:
        """Whether a picture waits that was drawn under this very claim. Raises SpoolUnusable."""
        return any(claim_in(name) == (unit.id, unit.lease_token) for name in self.names())

    def read(self, name: str) -> Spooled:
        """One picture. Raises FileNotFoundError where another process was faster, SpoolDamaged, SpoolUnusable."""
        with self._opened() as folder:
            try:
                descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
            except OSError as error:
                if error.errno in _NO_FILE:
                    raise SpoolDamaged(f"{name} in {self.folder} is no readable file of this user") from error
                raise
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_PICTURE_BYTES:
                os.close(descriptor)
                raise SpoolDamaged(f"{name} in {self.folder} is no file of at most {MAX_PICTURE_BYTES} bytes")
            with os.fdopen(descriptor, "rb") as file:
                data = file.read(found.st_size + 1)
        picture = Spooled.load(data)
        if claim_in(name) != (picture.unit.id, picture.unit.lease_token):
            raise SpoolDamaged(f"{name} in {self.folder} holds a picture of another claim")
        return picture

    def remove(self, name: str) -> None:
        """Let go of a picture that is recorded, or that nobody wants any more."""
        with self._opened() as folder:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def remove_of(self, units: Container[str]) -> int:
        """Remove every file of these units, damaged ones too, and half files, of which nobody knows whose they are;
        returns how many. Raises SpoolUnusable.
        """
        try:
            with self._opened() as folder:
                gone = [name for name in os.listdir(folder) if _unit_in(name) in units or _is_left(name, folder)]
                for name in gone:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
                os.fsync(folder)
                return len(gone)
        except FileNotFoundError:
            return 0

    def set_aside(self, name: str) -> None:
        """Give a damaged file another name, under which nobody reads it."""
        with self._opened() as folder, suppress(FileNotFoundError):
            os.rename(name, f"{name}{DAMAGED}", src_dir_fd=folder, dst_dir_fd=folder)

    def used_bytes(self) -> int:
        """The size of all files in it. Raises SpoolUnusable."""
        try:
            with self._opened() as folder:
                return sum(_size_of(name, folder) for name in os.listdir(folder))
        except FileNotFoundError:
            return 0

    def check(self) -> None:
        """Prove that a picture could be kept, and clear away half files that ended processes left long ago.

        Raises: SpoolFull, SpoolUnusable.
        """
        with self._opened(make=True) as folder:
            name = f"check-{secrets.token_hex(8)}{ENDING}"
            _write_whole(folder, name, bytes(4096))
            os.unlink(name, dir_fd=folder)
            for old in os.listdir(folder):
                if old.endswith(UNFINISHED) and _age_of(old, folder) > ABANDONED_SECONDS:
                    with suppress(FileNotFoundError):
                        os.unlink(old, dir_fd=folder)

    def _all(self) -> list[str]:
        try:
            with self._opened() as folder:
                return os.listdir(folder)
        except FileNotFoundError:
            return []

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        """The folder, which must be nobody else's; a missing file or folder stays a FileNotFoundError."""
        try:
            if make:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self.folder, _FOLDER_FLAGS)
            try:
                self._make_private(folder)
                yield folder
            finally:
                os.close(folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            told = f"finished pictures cannot be kept in {self.folder}: {os.strerror(error.errno or 0)}"
            if error.errno in _FULL:
                raise SpoolFull(f"{told}; free some space, then it goes on") from error
            raise SpoolUnusable(f"{told}; make it a writable folder of this user, or set PORTRAITS_SPOOL") from error

    def _make_private(self, folder: int) -> None:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid():
            raise SpoolUnusable(f"{self.folder} belongs to user {found.st_uid}; wanted one of this user alone")
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(folder, 0o700)


def claim_in(name: str) -> tuple[uuid.UUID, int] | None:
    """The unit and token in a file's name."""
    found = _NAME.fullmatch(name)
    try:
        return (uuid.UUID(found[2]), int(found[3])) if found else None
    except ValueError:
        return None


def _unit_in(name: str) -> str:
    """The unit in the name of a file, damaged or not; empty where there is none."""
    found = _NAME.fullmatch(name.removesuffix(DAMAGED))
    return found[2] if found else ""


def _is_left(name: str, folder: int) -> bool:
    """Whether it is a half file that nobody writes any more."""
    return name.endswith(UNFINISHED) and _age_of(name, folder) > WRITING_SECONDS


def _write_whole(folder: int, name: str, data: bytes) -> None:
    """Write beside, flush, rename, flush the folder; what could not be written whole is removed again."""
    beside = f".{secrets.token_hex(12)}{UNFINISHED}"
    try:
        descriptor = os.open(beside, _WRITE_FLAGS, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(beside, dir_fd=folder)
        raise
    os.fsync(folder)


def _size_of(name: str, folder: int) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _age_of(name: str, folder: int) -> float:
    try:
        return time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0
