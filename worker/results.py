"""Fetching a job's pictures: into a folder, where those that lie there already are left alone, or into one zip file.

Pictures are fetched by a few threads, in a window of bounded size, and checked against the SHA-256 of their row. Files
appear whole or not at all. What cannot be fetched is reported, and the others go on.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.errors import BadKey, ObjectMissing
from jobs.storage import Storage
from worker.errors import WorkerError
from worker.names import UniqueNames
from worker.results_table import TableFormat, open_table

THREADS = 8
WINDOW = 32
KEPT_FAILURES = 100
ZIP_YEAR_ZERO = (1980, 1, 1, 0, 0, 0)

Row = dict[str, Any]


class OutputRefused(WorkerError):
    """Results cannot be written there."""

    code = "output_refused"


class PictureDamaged(WorkerError):
    """A stored picture is not what was recorded."""

    code = "picture_damaged"


@dataclass
class Fetched:
    """What became of a job's pictures. `failures` holds the first ones, `failed` counts all."""

    place: Path
    table: str = ""
    fetched: int = 0
    present: int = 0
    failed: int = 0
    rows: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)

    def _count(self, row: Row, outcome: str | WorkerError | ObjectMissing | BadKey) -> None:
        self.rows += 1
        if outcome == "fetched":
            self.fetched += 1
        elif outcome == "present":
            self.present += 1
        elif not isinstance(outcome, str):
            self.failed += 1
            if len(self.failures) < KEPT_FAILURES:
                told = {"render_id": str(row["render_id"]), "code": outcome.code, "message": str(outcome)}
                self.failures.append(told)


def named(rows: Iterable[Row], names: UniqueNames, state: str | None) -> Iterator[Row]:
    """The rows of this state (None: all) with `file`, the relative path of a finished picture, None for others.

    `rows` must be all of the job's, in order: the names of later ones depend on earlier ones.
    """
    for row in rows:
        path = names.path(row)
        if state is None or row["state"] == state:
            yield {"file": path if row["storage_key"] else None, **row}


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

    def fetch(row: Row) -> str:
        if _is_there(folder / row["file"], row):
            return "present"
        _write_whole(folder / row["file"], _picture(storage, row))
        return "fetched"

    with _writing(folder), _whole_file(folder / report.table) as part, open_table(part, table) as write:
        for row, outcome in _in_order(rows, fetch):
            report._count(row, outcome)
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
    with _writing(file), _whole_file(file) as part, suppress_missing(spool):
        archive = zipfile.ZipFile(part, "w", zipfile.ZIP_STORED)
        with archive, open_table(spool, table) as write:
            for row, outcome in _in_order(rows, lambda row: _picture(storage, row)):
                data = outcome if isinstance(outcome, bytes) else None
                report._count(row, "fetched" if data is not None else outcome)
                if data is not None:
                    archive.writestr(_entry(row), data)
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


def _in_order(rows: Iterable[Row], fetch: Callable[[Row], Any]) -> Iterator[tuple[Row, Any]]:
    """Each row with what `fetch` gave, in order, fetched ahead by threads; faults of one picture are outcomes."""

    def guarded(row: Row) -> Any:
        try:
            return fetch(row)
        except (PictureDamaged, ObjectMissing, BadKey) as error:
            return error

    waiting: deque[tuple[Row, Future[Any] | None]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
    try:
        for row in rows:
            waiting.append((row, pool.submit(guarded, row) if row["file"] else None))
            if len(waiting) >= WINDOW:
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(row: Row, future: Future[Any] | None) -> tuple[Row, Any]:
    return row, future.result() if future is not None else "no picture"


def _picture(storage: Storage, row: Mapping[str, Any]) -> bytes:
    data = storage.get(row["storage_key"])
    found = hashlib.sha256(data).hexdigest()
    if found != row["sha256"]:
        raise PictureDamaged(
            f"{row['storage_key']} has SHA-256 {found[:12]}..., recorded is {str(row['sha256'])[:12]}...; "
            "draw it again with `portraits rerun`"
        )
    return data


def _is_there(path: Path, row: Mapping[str, Any]) -> bool:
    """Whether the file holds exactly the recorded picture; the size is asked first, since it is cheap."""
    try:
        if path.is_symlink() or path.stat().st_size != row["size_bytes"]:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == str(row["sha256"])
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
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputRefused(f"cannot write to {place}: {error.strerror or error}") from error


def _entry(row: Mapping[str, Any]) -> zipfile.ZipInfo:
    """The file's entry; its time is when the picture was finished, so the same job gives the same archive."""
    moment = row["finished_at"]
    time = moment.timetuple()[:6] if moment is not None and moment.year >= ZIP_YEAR_ZERO[0] else ZIP_YEAR_ZERO
    entry = zipfile.ZipInfo(row["file"], time)
    entry.external_attr = 0o644 << 16
    return entry
