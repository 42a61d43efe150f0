"""CSV and JSON Lines as streams: one person at a time, whatever the length of the file.

Both yield `Mapped` records with the line they start on. A record that cannot be read is yielded as the `Unreadable` it
is, and reading goes on with the next, where the format allows it. Lines are read as bytes with a limit, so a file
without line ends costs no memory either, and bytes that are not UTF-8 are named with line and place.

CSV. The first row holds the headings; `,`, `;` or a tab divides, whichever the headings use most (in a `.tsv` a tab).
Known columns are `id` and `photos` (both must be there), `subject`, `consent`, `purpose`; every other column is a field
for the prompts. `photos` holds one or several paths with `|` or `;` between them. An empty cell is a value that was not
given; rows in which every cell is empty are skipped, as spreadsheets leave them at the end. A row with more or fewer
cells than headings is a fault. A flat row cannot say who somebody is made of, which face of a photo is meant or who is
not drawn: such people are written in YAML, JSON or JSON Lines. Sliders stand in the job file, and may name rows.

JSON Lines. One identity per line; the first line may be `{"job": {...}}`, and no other. Empty lines are skipped.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jobs.json_format import parse_json
from jobs.located import Listed, Mapped, Unreadable, decode_utf8
from jobs.templates import FIELD_NAME

MAX_RECORD_BYTES = 256 * 1024
MAX_COLUMNS = 200
_DELIMITERS = (",", ";", "\t")
_TEXTS = ("subject", "age", "consent", "purpose")
_REQUIRED = ("id", "photos")
_REFUSED = {"prompts", "fields"}
_PHOTO_DIVIDER = re.compile(r"[|;]")

Record = Mapped | Unreadable


class LateJob(Unreadable):
    """A job line of JSON Lines that is not the first: people before it were read without it."""


class CsvStream:
    """The rows of a CSV file as identity records. `columns` are the headings, read when the stream is opened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._lines = _Lines(self._file)
        try:
            self._rows, self.columns = self._open(tab=path.suffix.lower() == ".tsv")
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def fields(self) -> frozenset[str]:
        """What prompts may use: `subject` and every further column, if there are such columns."""
        return frozenset(self.columns) - {"id", "photos", "consent", "purpose"}

    def __iter__(self) -> Iterator[Record]:
        """The records, from the second row on; can be walked once."""
        line = self._lines.number + 1
        while True:
            self._lines.begin_record()
            try:
                row = next(self._rows, None)
            except (Unreadable, csv.Error) as error:
                yield error if isinstance(error, Unreadable) else Unreadable(f"not CSV: {error}", line)
                if self._lines.broken or self._lines.number > line:
                    # It happened inside a quoted cell of several lines: where the next row begins is a guess.
                    return
                row = []
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield self._record(row, line)
            line = self._lines.number + 1

    def _open(self, *, tab: bool) -> tuple[Iterator[list[str]], list[str]]:
        first = next(self._lines, None)
        if first is None or not first.strip():
            raise Unreadable("the first line is empty; it holds the headings: id,photos,subject,...", 1)
        outside_quotes = re.sub(r'"[^"]*"', "", first)
        delimiter = "\t" if tab else max(_DELIMITERS, key=outside_quotes.count)
        self._lines.push_back(first)
        rows = csv.reader(self._lines, delimiter=delimiter, strict=True)
        try:
            columns = [cell.strip() for cell in next(rows)]
        except csv.Error as error:
            raise Unreadable(f"not CSV: {error}", 1) from error
        while columns and not columns[-1]:
            columns.pop()
        _check_columns(columns)
        return rows, columns

    def _record(self, row: list[str], line: int) -> Record:
        wanted = len(self.columns)
        if any(cell.strip() for cell in row[wanted:]) or len(row) < wanted:
            return Unreadable(
                f"the row has {len(row)} cells, the headings are {wanted}; quote cells that hold commas", line
            )
        record, fields, photos = Mapped(line), Mapped(line), Listed(line)
        for column, cell in zip(self.columns, row, strict=False):
            text = cell.strip()
            if not text:
                continue
            if column == "id" or column in _TEXTS:
                record.add(column, text, line)
            elif column == "photos":
                for part in _PHOTO_DIVIDER.split(text):
                    if part.strip():
                        photos.add(part.strip(), line)
            else:
                fields.add(column, text, line)
        if not photos and "identity" in fields:
            return Unreadable(
                "a row of a table has photos, this one has none; people made of others (`identity`) are written in "
                "YAML, JSON or JSON Lines",
                line,
            )
        record.add("photos", photos, line)
        record.add("fields", fields, line)
        return record


class JsonLinesStream:
    """The lines of a JSON Lines file as identity records. `job` is the first line's job part, if it has one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._lines = _Lines(self._file)
        self.job: Mapped | None = None
        self._first: Record | None = None
        try:
            self._first = next(self._records(), None)
        except BaseException:
            self._file.close()
            raise
        first = self._first
        if isinstance(first, Mapped) and list(first) == ["job"] and isinstance(first["job"], Mapped):
            self.job, self._first = first["job"], None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[Record]:
        """The records; can be walked once."""
        if self._first is not None:
            yield self._first
        for record in self._records():
            if isinstance(record, Mapped) and "job" in record and "id" not in record:
                yield LateJob("the job line must be the first of the file, and the only one; move it up", record.line)
            else:
                yield record

    def _records(self) -> Iterator[Record]:
        while True:
            self._lines.begin_record()
            try:
                text = next(self._lines, None)
                if text is None:
                    return
                if text.strip():
                    record = parse_json(text.rstrip("\r\n"), first_line=self._lines.number)
                    if not isinstance(record, Mapped):
                        raise Unreadable("wanted one identity, {...}, per line", self._lines.number)
                    yield record
            except Unreadable as error:
                yield error
                if self._lines.broken:
                    return


class _Lines(Iterator[str]):
    """The lines of a file as texts with their ends. `number` is that of the last one; no record exceeds the limit."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pushed: str | None = None
        self._left = MAX_RECORD_BYTES
        self.number = 0
        self.broken = False

    def begin_record(self) -> None:
        """The next line begins a new record."""
        self._left = MAX_RECORD_BYTES

    def push_back(self, line: str) -> None:
        """Give the last line out once more."""
        self._pushed = line
        self.number -= 1

    def __next__(self) -> str:
        if self._pushed is not None:
            line, self._pushed = self._pushed, None
            self.number += 1
            return line
        data = self._file.readline(self._left + 1)
        if not data:
            raise StopIteration
        self.number += 1
        self._left -= len(data)
        if self._left < 0:
            self.broken = True
            raise Unreadable(f"more than {MAX_RECORD_BYTES} bytes in one record; look for a missing quote", self.number)
        if self.number == 1 or not data.isascii():
            return decode_utf8(data, line=self.number)
        return data.decode("ascii")


def _check_columns(columns: list[str]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise Unreadable(f"{len(columns)} headings; at most {MAX_COLUMNS} are allowed", 1)
    known = {"id", "photos", *_TEXTS}
    other_case = [name for name in columns if name not in known and name.lower() in known]
    for name in _REQUIRED:
        if name in columns:
            continue
        if name in (heading.lower() for heading in other_case):
            lower = ", ".join(heading.lower() for heading in other_case)
            raise Unreadable(f"no column {name!r}; write {', '.join(other_case)} in lower case: {lower}", 1, name)
        raise Unreadable(
            f"no column {name!r}; the headings are {', '.join(columns)} (a table lists people with photos; people made "
            "of others are written in YAML, JSON or JSON Lines)",
            1,
            name,
        )
    for index, name in enumerate(columns):
        if name in columns[:index]:
            raise Unreadable(f"the heading {name!r} stands twice", 1, name)
        if name in _REFUSED:
            raise Unreadable(f"the heading {name!r} cannot be used; write prompts in the job file", 1, name)
        if not FIELD_NAME.fullmatch(name):
            raise Unreadable(
                f"the heading {name!r} of column {index + 1} is no field name; use letters, digits, spaces, _ and -", 1
            )
