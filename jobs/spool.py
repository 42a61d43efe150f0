"""The temporary spool of one manifest: a private SQLite file that keeps memory constant.

It finds identities that stand twice, remembers each photo that was checked, orders people by their id for the content's
hash, and hands the checked people out again, so that the second pass cannot read another file than the first did.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import Fault, StorageFull
from jobs.planned import CheckedPhoto

_SCHEMA = """
CREATE TABLE people (ordinal INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, line INTEGER, digest BLOB NOT NULL,
                     kind TEXT NOT NULL, document TEXT NOT NULL);
CREATE TABLE photos (source TEXT PRIMARY KEY, fault TEXT, sha256 TEXT, bytes INTEGER, width INTEGER, height INTEGER,
                     media_type TEXT) WITHOUT ROWID;
CREATE TABLE pictures (sha256 TEXT PRIMARY KEY, source TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE members (what TEXT NOT NULL, member TEXT NOT NULL, line INTEGER, field TEXT, source TEXT);
CREATE TABLE weight_sets (fingerprint TEXT NOT NULL, line INTEGER, field TEXT);
"""
_CACHED_PHOTOS = 10_000


class Spool:
    """Lives in a folder of its own below the system's temporary folder, which `close` removes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="portraits-")
        self._photos: dict[str, CheckedPhoto | str] = {}
        with self._errors():
            path = Path(self._folder.name) / "spool.db"
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # Nothing here outlives the process, so there is nothing to make durable.
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("PRAGMA cache_size = -65536")
            self._database.executescript(_SCHEMA)
            self._database.execute("BEGIN")

    def close(self) -> None:
        """Remove the spool. Closing twice is harmless."""
        self._database.close()
        self._folder.cleanup()

    def add_person(
        self, external_id: str, line: int | None, digest: bytes, document: str, kind: str = "photos"
    ) -> bool:
        """Keep a person; False if the id was there before (`first_line` says where)."""
        with self._errors():
            added = self._database.execute(
                "INSERT INTO people (id, line, digest, kind, document) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (external_id, line, digest, kind, document),
            )
            return added.rowcount == 1

    def first_line(self, external_id: str) -> int | None:
        """The line on which a person stands who was kept."""
        with self._errors():
            row = self._database.execute("SELECT line FROM people WHERE id = ?", (external_id,)).fetchone()
        line: int | None = row[0]
        return line

    def documents(self, *, composed: bool | None = None) -> Iterator[str]:
        """The documents of all people in the manifest's order; only those made of others, or only the rest."""
        wanted = {None: "", True: "WHERE kind IN ('mix', 'together')", False: "WHERE kind NOT IN ('mix', 'together')"}
        with self._errors():
            for row in self._database.execute(f"SELECT document FROM people {wanted[composed]} ORDER BY ordinal"):
                yield row[0]

    def document(self, external_id: str) -> str:
        """The document of a person who was kept. Raises KeyError."""
        with self._errors():
            row = self._database.execute("SELECT document FROM people WHERE id = ?", (external_id,)).fetchone()
        if row is None:
            raise KeyError(external_id)
        document: str = row[0]
        return document

    def add_member(self, what: str, member: str, fault: Fault) -> None:
        """Note that `what` is made of the person `member`, and where that stands."""
        row = (what, member, fault.line, fault.field, fault.source)
        with self._errors():
            self._database.execute("INSERT INTO members VALUES (?, ?, ?, ?, ?)", row)

    def wrong_members(self) -> Iterator[tuple[str, str, str | None, Fault]]:
        """(what, member, the member's kind, place) where the member is nobody (kind None) or has no photos."""
        with self._errors():
            for what, member, line, field, source, kind in self._database.execute(
                "SELECT m.*, p.kind FROM members m LEFT JOIN people p ON p.id = m.member "
                "WHERE p.kind IS NULL OR p.kind <> 'photos' ORDER BY m.rowid"
            ):
                yield what, member, kind, Fault("", line, field, source)

    def add_weight_set(self, fingerprint: str, line: int | None, field: str) -> None:
        """Note that a stored weight set is named."""
        with self._errors():
            self._database.execute("INSERT INTO weight_sets VALUES (?, ?, ?)", (fingerprint, line, field))

    def weight_sets(self) -> Iterator[tuple[str, int | None, str]]:
        """(fingerprint, line, field) of every stored weight set that is named."""
        with self._errors():
            yield from self._database.execute("SELECT fingerprint, line, field FROM weight_sets ORDER BY rowid")

    def add_picture(self, found: CheckedPhoto) -> None:
        """Remember a picture that is used, whose measures `photo` knows."""
        with self._errors():
            statement = "INSERT INTO pictures VALUES (?, ?) ON CONFLICT DO NOTHING"
            self._database.execute(statement, (found.sha256, found.source))

    def pictures(self) -> Iterator[CheckedPhoto]:
        """The pictures that are used, in the order of their hashes."""
        with self._errors():
            for row in self._database.execute("SELECT source FROM pictures ORDER BY sha256"):
                found = self.photo(row[0])
                if isinstance(found, CheckedPhoto):
                    yield found

    def content_hash(self, head: bytes) -> str:
        """SHA-256 over `head` and all digests, ordered by id, in hex."""
        hashed = hashlib.sha256(head)
        with self._errors():
            for row in self._database.execute("SELECT digest FROM people ORDER BY id"):
                hashed.update(row[0])
        return hashed.hexdigest()

    def photo(self, source: str) -> CheckedPhoto | str | None:
        """What was found about a photo: its measures, the fault's text, or None if it was not looked at yet."""
        cached = self._photos.get(source)
        if cached is not None:
            return cached
        with self._errors():
            row = self._database.execute("SELECT * FROM photos WHERE source = ?", (source,)).fetchone()
        if row is None:
            return None
        found: CheckedPhoto | str = row[1] if row[1] is not None else CheckedPhoto(row[2], row[0], *row[3:])
        self._cache(source, found)
        return found

    def add_photo(self, source: str, found: CheckedPhoto | str) -> None:
        """Remember a photo's measures or its fault."""
        row: tuple[str | int | None, ...] = (source, None, None, None, None, None, None)
        if isinstance(found, str):
            row = (source, found, *row[2:])
        else:
            row = (source, None, found.sha256, found.bytes_size, found.width, found.height, found.media_type)
        with self._errors():
            self._database.execute("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._cache(source, found)

    def photo_totals(self) -> tuple[int, int]:
        """(number, bytes) of the different photos."""
        with self._errors():
            row = self._database.execute(
                "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM "
                "(SELECT sha256, MAX(bytes) AS bytes FROM photos WHERE sha256 IS NOT NULL GROUP BY sha256)"
            ).fetchone()
        return row[0], row[1]

    def _cache(self, source: str, found: CheckedPhoto | str) -> None:
        if len(self._photos) >= _CACHED_PHOTOS:
            self._photos.clear()
        self._photos[source] = found

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageFull(
                f"cannot keep the manifest's spool in {self._folder.name} ({error}); free some space, or set TMPDIR"
            ) from error
