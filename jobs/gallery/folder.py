"""A gallery in a folder of fetched pictures: `index.html` beside them, with relative links, for `file://`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import GalleryRefused
from jobs.gallery.data import PICTURES_A_PAGE, Head
from jobs.gallery.files import write_whole
from jobs.gallery.make import Files, Maker, Place, Row

INDEX = "index.html"
SHEETS = "gallery"
_OURS = b'<meta name="generator" content="portraits">'
_HEAD_BYTES = 8_192
_PAGE = re.compile(r"index-(\d{4,6})\.html")
_SHEET = re.compile(r"thumbnails-(\d{4,7})\.css")


class FolderGallery:
    """Makes the gallery of a folder while its pictures are fetched: `add` each row when its files are there.

    A row has `file`, the relative path of its picture or None, and `further`, rows of further files with theirs.
    """

    def __init__(self, folder: Path, head: Head) -> None:
        """Raises GalleryRefused where the folder has a page of somebody else's making."""
        self._folder = folder
        _require_ours(folder / INDEX)
        self._maker = Maker(
            head,
            Place(
                read=lambda row: (folder / row["file"]).read_bytes(),
                files=_files,
                write=lambda name, data, _: write_whole(folder / name, data),
                pictures="",
                folder=f"{SHEETS}/",
                page_name=lambda number: INDEX if number == 1 else f"index-{number:04d}.html",
            ),
            pictures_a_page=PICTURES_A_PAGE,
        )

    def add(self, row: Row) -> None:
        """The next row of the job."""
        self._maker.add(row)

    def close(self) -> Path:
        """Write the last page, remove what a larger gallery had left; returns the page to open. Raises OSError."""
        self._maker.close()
        _remove_beyond(self._folder, _PAGE, self._maker.pages)
        _remove_beyond(self._folder / SHEETS, _SHEET, self._maker.sheets)
        return self._folder / INDEX


def _files(rows: Sequence[Row]) -> Files:
    return {
        row["render_id"]: (row["file"], [(one["name"], one["file"]) for one in row["further"]])
        for row in rows
        if row["file"]
    }


def _require_ours(index: Path) -> None:
    if not index.exists():
        return
    with index.open("rb") as file:
        if _OURS in file.read(_HEAD_BYTES):
            return
    raise GalleryRefused(
        f"{index} is there, and not of this program's making; fetch into another folder, or leave the gallery out with "
        "--no-gallery"
    )


def _remove_beyond(folder: Path, names: re.Pattern[str], last: int) -> None:
    for file in folder.iterdir() if folder.is_dir() else ():
        found = names.fullmatch(file.name)
        if found is not None and int(found[1]) > last:
            file.unlink()
