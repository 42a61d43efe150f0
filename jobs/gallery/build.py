"""Building galleries into the store: claimed by a lease, written under its token, put in force by one row.

Pages and sheets first, then the row, then the older ones go. Whoever is killed leaves files under a token that no row
names, which the sweep removes; whoever was overtaken is fenced out by its token and removes its own.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from jobs.database import Database
from jobs.errors import DatabaseUnavailable, JobsError, StorageError, UnknownJob
from jobs.gallery import keys
from jobs.gallery.data import Head
from jobs.gallery.make import Files, Maker, Place, Row
from jobs.orm import utcnow
from jobs.repository import galleries, queries
from jobs.repository.galleries import ClaimedGallery
from jobs.settings import Settings
from jobs.storage import Storage

IDS_AT_ONCE = 500
LOOK_SECONDS = 0.25
_log = logging.getLogger(__name__)


class Abandoned(Exception):
    """The gallery is not to be built on: this process ends, or another one has it."""


def build_due(
    database: Database,
    storage: Storage,
    settings: Settings,
    *,
    owner: str,
    limit: int = 1,
    is_over: Callable[[], bool] = lambda: False,
) -> int:
    """Build the galleries that are due, those that wait for longest first, at most `limit`; returns how many are done.

    A gallery that cannot be built is noted with its reason, and tried again later. `is_over` is asked before each
    picture: what is under way is handed back then. Raises: DatabaseUnavailable.
    """
    built = 0
    for _ in range(limit):
        if is_over():
            break
        with database.reading() as tx:
            if not galleries.is_any_due(tx):
                break
        with database.transaction() as tx:
            claimed = galleries.claim(tx, owner, lease_seconds=settings.lease_seconds)
        if claimed is None:
            break
        built += _build(database, storage, settings, claimed, is_over)
    return built


def build_now(
    database: Database,
    storage: Storage,
    settings: Settings,
    tenant: str,
    job_id: uuid.UUID,
    *,
    owner: str,
    is_over: Callable[[], bool] = lambda: False,
) -> bool:
    """Build a job's gallery as the job is at this moment, or wait for whoever does; whether there is one then.

    Raises: the fault for which it could not be built.
    """
    with database.transaction(tenant) as tx:
        galleries.make_due(tx, tenant, job_id)
    wait = threading.Event()
    while not is_over():
        with database.transaction(tenant) as tx:
            claimed = galleries.claim(tx, owner, lease_seconds=settings.lease_seconds, job=(tenant, job_id))
        if claimed is not None:
            return _build(database, storage, settings, claimed, is_over, is_asked=True)
        with database.reading(tenant) as tx:
            row = galleries.find(tx, tenant, job_id)
        if row is None or row["due_at"] is None:
            return row is not None and row["built_token"] is not None
        wait.wait(LOOK_SECONDS)
    return False


def _build(
    database: Database,
    storage: Storage,
    settings: Settings,
    claimed: ClaimedGallery,
    is_over: Callable[[], bool],
    *,
    is_asked: bool = False,
) -> bool:
    """Build one gallery and put it in force. `is_asked`: somebody waits for it, and is told of faults."""
    own = keys.prefix(claimed.tenant_id, claimed.job_id, claimed.lease_token)
    try:
        with _Lease(database, claimed, settings.lease_seconds) as lease:
            shown = _write(database, storage, settings, claimed, lambda: _go_on(lease, is_over))
        with database.transaction(claimed.tenant_id) as tx:
            is_in_force = galleries.complete(tx, claimed, pictures=shown)
    except (Abandoned, KeyboardInterrupt) as stopped:
        with database.transaction(claimed.tenant_id) as tx:
            galleries.release(tx, claimed)
        _clear(storage, own)
        if isinstance(stopped, KeyboardInterrupt):
            raise
        return False
    except Exception as error:
        _note(database, claimed, error)
        if not isinstance(error, DatabaseUnavailable):  # which may have put it in force, and lost its answer
            _clear(storage, own)
        if is_asked or not isinstance(error, JobsError):
            raise
        _log.warning("the gallery of job %s could not be built: %s", claimed.job_id, error)
        return False
    if is_in_force:
        _clear(storage, keys.folder(claimed.tenant_id, claimed.job_id), older_than=claimed.lease_token)
    else:
        _clear(storage, own)
    return is_in_force


def _write(
    database: Database, storage: Storage, settings: Settings, claimed: ClaimedGallery, look: Callable[[], None]
) -> int:
    """Every file of the gallery; returns how many pictures it shows."""
    tenant, job_id = claimed.tenant_id, claimed.job_id
    with database.reading(tenant) as tx:
        job = queries.job(tx, tenant, job_id)
    if job is None:
        raise UnknownJob(f"job {job_id} has no units, so there is nothing to show")
    own, beside = keys.prefix(tenant, job_id, claimed.lease_token), f"{tenant}/{job_id}/"
    is_folder = settings.storage_url.startswith("file://")
    place = Place(
        read=lambda row: storage.get(row["storage_key"]),
        files=lambda rows: _files(database, tenant, rows, beside),
        write=lambda name, file, content_type: storage.put(own + name, file, content_type=content_type),
        pictures="../../" if is_folder else None,
        serve=None if is_folder else settings.serve_url or None,
        with_data=True,
        look=look,
    )
    maker = Maker(Head.of(dict(job), utcnow()), place)
    for row in _rows(database, tenant, job_id):
        look()
        maker.add(row)
    maker.close()
    return maker.shown


def _rows(database: Database, tenant: str, job_id: uuid.UUID) -> Iterator[Row]:
    """The job's pictures in order; no transaction is open while one is looked at."""
    last = -1
    while True:
        with database.reading(tenant) as tx:
            rows = [dict(row) for row in queries.renders(tx, tenant, job_id, after=last, limit=queries.PAGE)]
        yield from rows
        if len(rows) < queries.PAGE:
            return
        last = rows[-1]["ordinal"]


def _files(database: Database, tenant: str, rows: Sequence[Row], beside: str) -> Files:
    """The files of these rows, relative to the job's folder in the store."""
    ids = [row["render_id"] for row in rows if row["storage_key"]]
    further: dict[Any, list[tuple[str, str]]] = {}
    with database.reading(tenant) as tx:
        for start in range(0, len(ids), IDS_AT_ONCE):
            statement = queries.outputs_of(tenant, ids[start : start + IDS_AT_ONCE])
            for one in tx.execute(statement).mappings():
                further.setdefault(one["render_id"], []).append((one["name"], one["storage_key"].removeprefix(beside)))
    return {
        row["render_id"]: (row["storage_key"].removeprefix(beside), sorted(further.get(row["render_id"], ())))
        for row in rows
        if row["storage_key"]
    }


def _go_on(lease: _Lease, is_over: Callable[[], bool]) -> None:
    if lease.is_lost or is_over():
        raise Abandoned


def _note(database: Database, claimed: ClaimedGallery, error: Exception) -> None:
    """Write the reason down; where the database does not answer, the lease runs out by itself."""
    told = str(error) if isinstance(error, JobsError) else f"unforeseen {type(error).__name__}: {error}"
    try:
        with database.transaction(claimed.tenant_id) as tx:
            galleries.fail(tx, claimed, told[:2_000], retryable=getattr(error, "retryable", False))
    except DatabaseUnavailable as away:
        _log.warning("the fault of the gallery of job %s could not be noted: %s", claimed.job_id, away)


def _clear(storage: Storage, prefix: str, *, older_than: int | None = None) -> None:
    """Remove what is not in force; what the store does not let go of, the sweep removes later."""
    try:
        found = list(storage.list(prefix))
        for key in found:
            if older_than is None or _token(key) < older_than:
                storage.delete(key)
    except StorageError as error:
        _log.warning("files of an older gallery are left to the sweep: %s", error)


def _token(key: str) -> int:
    """Under which token a file was written; more than any for a file that no builder writes."""
    parsed = keys.parse(key.partition("/")[2])
    return parsed[1] if parsed else 2**63


class _Lease:
    """Signs of life while a gallery is built, from a thread."""

    def __init__(self, database: Database, claimed: ClaimedGallery, lease_seconds: float) -> None:
        self._database, self._claimed, self._seconds = database, claimed, lease_seconds
        self._over = threading.Event()
        self._until = time.monotonic() + lease_seconds
        self._fenced = False
        self._thread = threading.Thread(target=self._run, name="gallery-lease", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether another one has, or may have, the gallery."""
        return self._fenced or time.monotonic() > self._until

    def _run(self) -> None:
        while not self._over.wait(self._seconds / 4):
            asked = time.monotonic()
            try:
                with self._database.transaction(self._claimed.tenant_id) as tx:
                    self._fenced = not galleries.prolong(tx, self._claimed, lease_seconds=self._seconds)
            except DatabaseUnavailable as away:
                _log.warning("no sign of life could be given for a gallery: %s", away)
                continue
            if self._fenced:
                return
            self._until = asked + self._seconds

    def __enter__(self) -> _Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
