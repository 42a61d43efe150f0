"""Pictures in plain folders: NAME.jpg with NAME.txt, NAME.face.json and NAME.json beside it, if there are any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hyperlora.dataset.archive import PARTS, Entry, Span, split_name
from hyperlora.errors import DatasetMissing


def folder_entries(folder: Path) -> list[Entry]:
    """Every picture below a folder, sorted by its path, which (without the ending) is its key.

    Only regular files count, symbolic links to folders are not followed, and hidden files and folders are passed over.
    Raises `DatasetMissing` where the folder cannot be read.
    """
    found: dict[str, dict[str, Span]] = {}
    for name, span in _files(folder):
        key, ending = split_name(name)
        part = PARTS.get(ending)
        if part is not None:
            found.setdefault(key, {}).setdefault(part, span)
    return [Entry(key, **parts) for key, parts in sorted(found.items()) if "picture" in parts]


def _files(folder: Path) -> Iterator[tuple[str, Span]]:
    """Names relative to the folder, with slashes, and the whole files as spans, in the order of the names."""

    def refuse(fault: OSError) -> None:
        raise DatasetMissing(f"{fault.filename or folder} cannot be read: {fault.strerror or fault}") from fault

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(place, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield os.path.relpath(path, folder).replace(os.sep, "/"), Span(path, 0, os.path.getsize(path))
