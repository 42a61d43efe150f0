"""The object store in a folder: whole files only, one winner, no way out through a symbolic link.

A write goes to a dot-named file in the object's own folder, is flushed to the disk, and gets its name by `rename` (the
last writer wins) or by `link` (the first one wins, because a link never replaces). Every path is walked part by part
from the root with O_NOFOLLOW, so a link that someone put into the store is refused instead of followed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.errors import (
    BadKey,
    ObjectExists,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from jobs.storage import Announced, Entry, PutAddress, check_key

_UNFINISHED = re.compile(r"\.[0-9a-f]{24}\.part")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_BAD = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderStorage:
    """Objects as files below `root`, which is made when the first object is written."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def put(self, key: str, data: bytes, *, content_type: str, if_absent: bool = False) -> None:
        """See `Storage.put`. A folder keeps no content type: the key's ending says what it is."""
        del content_type
        *folders, name = check_key(key).split("/")
        with self._errors(key), self._folder(folders, make=True) as folder:
            temporary = f".{secrets.token_hex(12)}.part"
            try:
                _write_whole(folder, temporary, data)
                if if_absent:
                    self._link(folder, temporary, name, key)
                else:
                    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
            os.fsync(folder)

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        *folders, name = check_key(key).split("/")
        with self._errors(key), self._folder(folders) as folder:
            descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise ObjectMissing(f"{key!r} in {self.describe()} is not a file")
            with os.fdopen(descriptor, "rb") as file:
                return file.read()

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """See `Storage.size`. What is no file is no object."""
        *folders, name = check_key(key).split("/")
        try:
            with self._errors(key), self._folder(folders) as folder:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except ObjectMissing:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def delete(self, key: str) -> None:
        """See `Storage.delete`. Empty folders stay: another writer may be about to use them."""
        *folders, name = check_key(key).split("/")
        try:
            with self._errors(key), self._folder(folders) as folder:
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
        except ObjectMissing:
            return

    def purge(self, key: str) -> None:
        """See `Storage.purge`: a folder keeps no versions; what a file system or a backup keeps is not known here."""
        self.delete(key)

    def keeps_versions(self) -> bool:
        """See `Storage.keeps_versions`: no."""
        return False

    def earlier(self, prefix: str) -> Iterator[str]:
        """See `Storage.earlier`: none."""
        del prefix
        return iter(())

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage.list`. Links are neither followed nor listed."""
        return (entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """See `Storage.entries`: a folder at a time, by name."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        with self._errors(prefix):
            start = self.root / folder
            if not start.is_dir() or Path(os.path.realpath(start)) != start:
                return
            for place, folders, names in os.walk(start, onerror=_raise):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                relative = Path(place).relative_to(self.root)
                for name in sorted(names):
                    key = (relative / name).as_posix()
                    if key.startswith(prefix) and not name.startswith("."):
                        yield from _entry(key, Path(place) / name)

    def remove_unfinished(self, older_than_seconds: float) -> int:
        """See `Storage.remove_unfinished`: the files under names of their own that `put` begins with."""
        removed = 0
        with self._errors("."):
            for place, _, names in os.walk(self.root, onerror=_raise) if self.root.is_dir() else ():
                for name in names:
                    if _UNFINISHED.fullmatch(name):
                        removed += _remove_old(Path(place) / name, older_than_seconds)
        return removed

    def url(self, key: str, expires_seconds: int) -> str:
        """See `Storage.url`: a file:// URL, which does not expire."""
        del expires_seconds
        return (self.root / check_key(key)).as_uri()

    def put_address(self, key: str, what: Announced, expires_seconds: int) -> PutAddress | None:
        """See `Storage.put_address`: a folder has no address."""
        del what, expires_seconds
        check_key(key)
        return None

    def check(self) -> None:
        """See `Storage.check`. Makes the folder if it is missing."""
        key = f"check/{secrets.token_hex(12)}"
        self.put(key, b"check", content_type="text/plain", if_absent=True)
        try:
            if self.get(key) != b"check":
                raise StorageUnavailable(f"{self.describe()} gave back other bytes than were written")
        finally:
            self.delete(key)

    def describe(self) -> str:
        """See `Storage.describe`."""
        return f"folder {self.root}"

    def _link(self, folder: int, temporary: str, name: str, key: str) -> None:
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError as error:
            raise ObjectExists(f"{key!r} exists already in {self.describe()}") from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise StorageDenied(
                f"the file system of {self.describe()} refuses hard links ({os.strerror(error.errno)}), which keep two "
                "writers from both winning; choose a folder on another file system, or S3"
            ) from error

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder, walked from the root without following a link."""
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root, _FOLDER_FLAGS)
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=descriptor)
                inner = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn the operating system's refusal into the store's, named for what the caller can do about it."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            where = f"{key!r} in {self.describe()}"
            if isinstance(error, FileNotFoundError):
                raise ObjectMissing(f"no object {where}") from error
            if error.errno in _FULL:
                raise StorageFull(f"no space to write {where} ({reason}); free some, then it goes on") from error
            if error.errno in _DENIED:
                raise StorageDenied(f"no permission for {where} ({reason}); give this user access") from error
            if error.errno in _BAD:
                raise BadKey(
                    f"cannot use {where} ({reason}): a link or a file stands where a folder should be"
                ) from error
            kind = StorageUnavailable if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT) else StorageError
            raise kind(f"cannot use {where}: {reason}") from error


def _raise(error: OSError) -> None:
    raise error


def _remove_old(path: Path, older_than_seconds: float) -> bool:
    """Remove a file that was written so long ago; whether it was."""
    with suppress(FileNotFoundError):
        if path.lstat().st_mtime <= time.time() - older_than_seconds:
            path.unlink()
            return True
    return False


def _entry(key: str, path: Path) -> Iterator[Entry]:
    """One file; none where it is a link, or has been removed since its folder was read."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode):
            yield Entry(key, found.st_size, found.st_mtime)


def _write_whole(folder: int, name: str, data: bytes) -> None:
    """Write and flush to the disk; the file is complete when this returns."""
    descriptor = os.open(name, _WRITE_FLAGS, 0o666, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
