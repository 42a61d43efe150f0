"""Fetching a job's pictures: into a folder, where those that lie there already are left alone, or into one zip file.

A picture may have further files, such as an avatar; they come with it. Files are fetched by a few threads, in a window
of bounded size, and checked against the SHA-256 of their row. They appear whole or not at all. What cannot be fetched
is reported, and the others go on.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import secrets
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.errors import BadKey, ObjectMissing
from jobs.storage import Storage
from worker.errors import WorkerError
from worker.names import UniqueNames
from worker.picture_file import extension_of
from worker.results_table import TableFormat, open_table

THREADS = 8
WINDOW = 64
WINDOW_BYTES = 256 * 2**20
KEPT_FAILURES = 100
ZIP_YEAR_ZERO = (1980, 1, 1, 0, 0, 0)

Row = dict[str, Any]


class OutputRefused(WorkerError):
    """Results cannot be written there."""

    code = "output_refused"


class PictureDamaged(WorkerError):
    """A stored picture is not what was recorded."""

    code = "picture_damaged"


# What became of one file: its bytes, what was done where it is written at once, or why it could not be fetched.
Outcome = bytes | Literal["fetched", "present"] | PictureDamaged | ObjectMissing | BadKey


@dataclass
class Fetched:
    """What became of a job's pictures and their further files. `failures` holds the first ones, `failed` counts all;
    `gallery` is the page that shows them, if one was made.
    """

    place: Path
    table: str = ""
    fetched: int = 0
    present: int = 0
    failed: int = 0
    rows: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    gallery: Path | None = None

    def _count(self, file: PictureRow, outcome: Outcome) -> None:
        if isinstance(outcome, bytes) or outcome == "fetched":
            self.fetched += 1
        elif outcome == "present":
            self.present += 1
        else:
            self.failed += 1
            if len(self.failures) < KEPT_FAILURES:
                told = {"render_id": str(file.render_id), "code": outcome.code, "message": str(outcome)}
                self.failures.append(told)


@dataclass(frozen=True)
class PictureRow:
    """One stored file: what its row says, and its relative path."""

    render_id: Any
    path: str
    storage_key: str
    sha256: str
    size_bytes: int


def named(rows: Iterable[Row], names: UniqueNames, state: str | None, further: Iterable[Row] = ()) -> Iterator[Row]:
    """The rows of this state (None: all) with `file`, the relative path of a finished picture, None for others.

    Also with `further_files`, the paths of its further files, and `further`, their rows with their `file`. `rows` must
    be all of the job's, in order: the names of later ones depend on earlier ones. `further` has the job's rows of
    `render_outputs` in the same order.
    """
    rest = _Groups(further)
    for row in rows:
        paths, own = names.paths(row), rest.of(row)
        if state is not None and row["state"] != state:
            continue
        drawn = bool(row["storage_key"])
        others = [{**one, "file": paths[one["name"]] + extension_of(one["media_type"])} for one in own if drawn]
        file = paths[""] + extension_of(row["media_type"]) if drawn else None
        yield {"file": file, "further_files": [one["file"] for one in others], "further": others, **row}


class _Groups:
    """Further files, asked for render by render in the order of `ordinal`; read only as far as asked."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows, self._next = iter(rows), None
        self._next = next(self._rows, None)

    def of(self, row: Row) -> list[Row]:
        found: list[Row] = []
        while self._next is not None and self._next["ordinal"] <= row["ordinal"]:
            if self._next["render_id"] == row["render_id"]:
                found.append(self._next)
            self._next = next(self._rows, None)
        return found


def fetch_folder(
    rows: Iterable[Row],
    storage: Storage,
    folder: Path,
    *,
    table: TableFormat,
    done: Callable[[Row], None] = lambda row: None,
) -> Fetched:
    """Fetch the pictures of `named` rows into the folder, and write `results.csv` or `results.jsonl` beside them.

    Raises: OutputRefused when the folder cannot be written; StorageError when the store does not answer (what was
    fetched stays, and the next call goes on from there).
    """
    report = Fetched(folder, table=f"results.{table}")

    def fetch(file: PictureRow) -> Outcome:
        if _is_there(folder / file.path, file):
            return "present"
        _write_whole(folder / file.path, _picture(storage, file))
        return "fetched"

    with writing(folder), _whole_file(folder / report.table) as part, open_table(part, table) as write:
        for row, file, outcome in _in_order(rows, fetch):
            if file is not None and outcome is not None:
                report._count(file, outcome)
                continue
            report.rows += 1
            write(row)
            done(row)
    return report


def fetch_zip(
    rows: Iterable[Row],
    storage: Storage,
    file: Path,
    *,
    table: TableFormat,
    done: Callable[[Row], None] = lambda row: None,
) -> Fetched:
    """The same into one zip file, streamed: neither memory nor the folder holds more than a window of pictures."""
    report = Fetched(file, table=f"results.{table}")
    spool = file.with_name(f".{file.name}.{secrets.token_hex(6)}.table")
    with writing(file), _whole_file(file) as part, suppress_missing(spool):
        archive = zipfile.ZipFile(part, "w", zipfile.ZIP_STORED)
        with archive, open_table(spool, table) as write:
            for row, picture, outcome in _in_order(rows, lambda file: _picture(storage, file)):
                if picture is not None and outcome is not None:
                    report._count(picture, outcome)
                    if isinstance(outcome, bytes):
                        archive.writestr(_entry(picture.path, row["finished_at"]), outcome)
                    continue
                report.rows += 1
                write(row)
                done(row)
        with zipfile.ZipFile(part, "a") as archive:
            _append(archive, report.table, spool)
    return report


def _append(archive: zipfile.ZipFile, name: str, source: Path) -> None:
    entry = zipfile.ZipInfo(name, ZIP_YEAR_ZERO)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    with source.open("rb") as file, archive.open(entry, "w", force_zip64=True) as target:
        shutil.copyfileobj(file, target)


def _in_order(
    rows: Iterable[Row], fetch: Callable[[PictureRow], Outcome]
) -> Iterator[tuple[Row, PictureRow | None, Outcome | None]]:
    """Each row's files with what `fetch` gave, then the row alone; in order, fetched ahead by threads.

    Faults of one file are outcomes. No more is ahead than `WINDOW` files and rows, and about `WINDOW_BYTES`.
    """

    def guarded(file: PictureRow) -> Outcome:
        try:
            return fetch(file)
        except (PictureDamaged, ObjectMissing, BadKey) as error:
            return error

    waiting: deque[tuple[Row, PictureRow | None, Future[Outcome] | None]] = deque()
    ahead = 0
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
    try:
        for row in rows:
            for file in _files(row):
                waiting.append((row, file, pool.submit(guarded, file)))
                ahead += file.size_bytes
            waiting.append((row, None, None))
            while len(waiting) >= WINDOW or ahead > WINDOW_BYTES:
                ahead -= _size(waiting[0][1])
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _files(row: Row) -> Iterator[PictureRow]:
    for one in (row, *row["further"]):
        if one["file"]:
            yield PictureRow(row["render_id"], one["file"], one["storage_key"], str(one["sha256"]), one["size_bytes"])


def _size(file: PictureRow | None) -> int:
    return file.size_bytes if file is not None else 0


def _outcome(
    row: Row, file: PictureRow | None, future: Future[Outcome] | None
) -> tuple[Row, PictureRow | None, Outcome | None]:
    return row, file, future.result() if future is not None else None


def _picture(storage: Storage, file: PictureRow) -> bytes:
    data = storage.get(file.storage_key)
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise PictureDamaged(
            f"{file.storage_key} has SHA-256 {found[:12]}..., recorded is {file.sha256[:12]}...; "
            "bring it back from a backup, or draw another picture with `portraits rerun`"
        )
    return data


def _is_there(path: Path, wanted: PictureRow) -> bool:
    """Whether the file holds exactly the recorded picture; the size is asked first, since it is cheap."""
    try:
        if path.is_symlink() or path.stat().st_size != wanted.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole_file(path) as part:
        part.write_bytes(data)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends well, and vanishes when it does not."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress_missing(part):
        yield part
        os.replace(part, path)


@contextmanager
def suppress_missing(path: Path) -> Iterator[None]:
    """Remove the file at the end, if it is still there."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the system refuses in this block is told as OutputRefused."""
    try:
        yield
    except OSError as error:
        raise OutputRefused(f"cannot write to {place}: {error.strerror or error}") from error


def _entry(path: str, moment: dt.datetime | None) -> zipfile.ZipInfo:
    """The file's entry; its time is when the picture was finished, so the same job gives the same archive."""
    time = moment.timetuple()[:6] if moment is not None and moment.year >= ZIP_YEAR_ZERO[0] else ZIP_YEAR_ZERO
    entry = zipfile.ZipInfo(path, time)
    entry.external_attr = 0o644 << 16
    return entry
