"""The recipe of a gallery: rows of a job become pages and sheets of thumbnails, wherever they are written.

Memory holds the rows of one page and one sheet at a time, however large the job is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.gallery import data, keys, page, sheets
from jobs.gallery.data import Builder, Head, PageData
from jobs.gallery.pictures import Read, Thumbnail, thumbnails

Row = Mapping[str, Any]
Files = Mapping[Any, tuple[str | None, Sequence[tuple[str, str]]]]
"""By render: the file of its picture, and names and files of its further forms."""

JSON = "application/json"


@dataclass(frozen=True)
class Place:
    """Where a gallery's files go, and how its pages name them.

    `read` gives the bytes of a row's picture, `files` the files of a page's rows, relative to `pictures` (see `Links`);
    `write` takes name, bytes and media type of a finished file. Sheets lie in `folder`. `with_data` keeps each page's
    data beside it, and `look` is called before each picture: it raises where nothing more is to be done.
    """

    read: Read
    files: Callable[[Sequence[Row]], Files]
    write: Callable[[str, bytes, str], None]
    pictures: str | None
    serve: str | None = None
    folder: str = ""
    page_name: Callable[[int], str] = keys.page_name
    with_data: bool = False
    look: Callable[[], None] = lambda: None


class Maker:
    """Makes a gallery of rows of `render_metrics` that come one by one, in the job's order.

    `add` and `close` raise what the place raises; what was written stays then.
    """

    def __init__(self, head: Head, place: Place, *, pictures_a_page: int = data.PICTURES_A_PAGE) -> None:
        self._head, self._place, self._most = head, place, pictures_a_page
        self._held: list[Row] = []
        self._seen = 0
        self.pages = 0
        self.sheets = 0
        self.shown = 0
        """How many pictures have thumbnails."""

    def add(self, row: Row) -> None:
        """The next row; a page that is full is written."""
        self._held.append(row)
        if len(self._held) > self._most:
            end = data.cut(self._held)
            self._write(self._held[:end], has_next=True)
            self._held = self._held[end:]

    def close(self) -> None:
        """Write the last page; a gallery without pictures has one, too."""
        self._write(self._held, has_next=False)
        self._held = []

    def _write(self, held: Sequence[Row], *, has_next: bool) -> None:
        """A page: its sheets, its data, and the page itself."""
        self.pages += 1
        made = PageData(self._head, self.pages, self._seen + 1, data.aspect_of(held), has_next)
        self._fill(made, held)
        self._seen += len(held)
        told = made.as_data()
        if self._place.with_data:
            self._place.write(keys.data_name(made.number), page.json_block(told).encode("utf-8"), JSON)
        self._place.write(self._place.page_name(made.number), page.render(told, self._links(made)), page.CONTENT_TYPE)

    def _fill(self, made: PageData, held: Sequence[Row]) -> None:
        """Put the rows into the page, and write its sheets."""
        place, files, builder, sheet = self._place, self._place.files(held), Builder(made), sheets.Sheet()
        made.sheet_size = sheets.sheet_size(sum(bool(row["storage_key"]) for row in held))
        number = 0
        for row, thumbnail in thumbnails(held, place.read, made.aspect):
            place.look()
            is_shown = thumbnail is not None and thumbnail.data is not None
            file, further = files.get(row["render_id"], (None, ()))
            told = {**row, "problem": _problem(row, thumbnail)}
            builder.add(told, file=file, further=further, thumbnail=number if is_shown else None)
            if thumbnail is None or thumbnail.data is None:
                continue
            made.notice = made.notice or thumbnail.notice
            sheet.add(number, thumbnail.data)
            number += 1
            if len(sheet) == made.sheet_size:
                sheet = self._written(made, sheet)
        if len(sheet):
            self._written(made, sheet)
        self.shown += number

    def _written(self, made: PageData, sheet: sheets.Sheet) -> sheets.Sheet:
        """Write a sheet, and begin another one."""
        self.sheets += 1
        name = self._place.folder + keys.sheet_name(self.sheets)
        self._place.write(name, sheet.as_bytes(), sheets.CONTENT_TYPE)
        made.sheets.append(name)
        return sheets.Sheet()

    def _links(self, made: PageData) -> page.Links:
        return page.Links(
            sheets=made.sheets,
            pictures=self._place.pictures,
            serve=self._place.serve,
            previous=self._place.page_name(made.number - 1) if made.number > 1 else None,
            next=self._place.page_name(made.number + 1) if made.has_next else None,
        )


def _problem(row: Row, thumbnail: Thumbnail | None) -> str | None:
    """Why a picture that is recorded as done cannot be shown."""
    if thumbnail is not None:
        return thumbnail.problem
    return "no file was recorded" if row["state"] == "done" else None
