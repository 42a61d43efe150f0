"""Reading files that a manifest names: regular files inside its folder, and nothing else.

The path is resolved once, must lie below the folder, and is then walked part by part with O_NOFOLLOW. So a symbolic
link may point to another place inside the folder, and nobody can swap one in between the look and the opening.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from jobs.errors import FileRefused

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_inside(folder: Path, name: str, *, limit: int) -> bytes:
    """The bytes of the file `name`, a path relative to `folder`, at most `limit` bytes.

    Raises `FileRefused`: missing, outside the folder, not a regular file, too large, not readable.
    """
    _check_name(folder, name)
    root = os.path.realpath(folder)
    try:
        resolved = os.path.realpath(os.path.join(root, name), strict=True)
        if os.path.commonpath([root, resolved]) != root:
            raise FileRefused(f"{name!r} leaves the folder {root}; put the file into it")
        return _read(root, os.path.relpath(resolved, root), name, limit)
    except FileNotFoundError as error:
        hint = "; write / between folders, not \\" if "\\" in name else ""
        raise FileRefused(f"no file {name!r} in {root}; correct the name or add the file{hint}") from error
    except OSError as error:
        raise FileRefused(f"cannot read {name!r} in {root}: {error.strerror or error}") from error


def _check_name(folder: Path, name: str) -> None:
    if not name or "\0" in name or name.startswith(("/", "~")):
        raise FileRefused(f"{name!r} is no path relative to {folder}; write it relative to the manifest's folder")
    if ".." in PurePosixPath(name).parts:
        raise FileRefused(f"{name!r} holds '..'; paths stay inside the manifest's folder {folder}")


def _read(root: str, relative: str, name: str, limit: int) -> bytes:
    *folders, last = relative.split(os.sep)
    descriptor = os.open(root, _FOLDER_FLAGS)
    try:
        for part in folders:
            inner = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # Looked at before it is opened: opening a device can have effects of its own.
        _check_regular(os.stat(last, dir_fd=descriptor, follow_symlinks=False), name)
        file = os.open(last, _FILE_FLAGS, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(opened.fileno())
        _check_regular(found, name)
        if found.st_size > limit:
            raise FileRefused(f"{name!r} has {found.st_size} bytes, at most {limit} are allowed; make it smaller")
        # One byte more than there should be, not the whole limit: Python makes room for what is asked for.
        data = opened.read(found.st_size + 1)
    if len(data) > found.st_size:
        raise FileRefused(f"{name!r} grew while it was read; enqueue again when nobody writes to it")
    return data


def _check_regular(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(found.st_mode), "a device or a link")
        raise FileRefused(f"{name!r} is {kind}; wanted a regular file")
