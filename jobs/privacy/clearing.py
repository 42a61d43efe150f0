"""Removing the objects of what was erased: at once, and again by a later turn where that was interrupted.

The keys lie in rows that were committed together with the erasure, so that nothing is lost between the two. A key that
a row names again, as the same photo was enqueued anew, stays. When every worker has obeyed, the places are looked at
where one of them, or whoever held a signed address, may have stored a last object in between.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.database import Database
from jobs.errors import BadKey, StorageError
from jobs.repository import forgettings
from jobs.repository import sweep as tenant_rows
from jobs.repository.forgettings import ForgettingRow
from jobs.repository.parts import parts
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.sweep import unnamed
from jobs.uploads import upload_key

log = logging.getLogger(__name__)
THREADS = 8
PAGE = 500


def clear(
    database: Database,
    storage: Storage,
    *,
    ids: Sequence[uuid.UUID] | None = None,
    limit: int = 1_000,
    is_over: Callable[[], bool] = lambda: False,
) -> int:
    """Remove the objects of so many rows, of `ids` alone if they are given; how many went.

    A row of which the store refuses an object is left, and the others are seen to. Raises: the first such refusal, in
    the end; StorageUnavailable, DatabaseUnavailable at once. What is left stays noted, and the next call goes on.
    """
    removed, refused, fault = 0, set[uuid.UUID](), None
    for _ in range(limit):
        with database.reading() as tx:
            rows = forgettings.to_clear(tx, limit=1, ids=ids, without=refused)
        if not rows or is_over():
            break
        try:
            removed += _clear_row(database, storage, rows[0])
        except StorageError as error:
            if error.retryable:
                raise
            row = str(rows[0].id)
            log.error("objects of an erasure are left, the others go on: %s", error, extra={"forgetting": row})
            refused.add(rows[0].id)
            fault = fault or error
            continue
        with database.transaction() as tx:
            forgettings.cleared(tx, rows[0].id)
    if fault is not None:
        raise fault
    return removed


def late_seconds(settings: Settings) -> float:
    """So long after an erasure an object may yet come: from a worker that was storing it, or under an address that was
    given out for sending that very photo to the store, which nobody can take back.
    """
    is_direct = settings.serve_direct and settings.storage_url.startswith("s3://")
    return forgettings.LATE_SECONDS + (settings.url_expires_seconds if is_direct else 0.0)


def close(
    database: Database, storage: Storage, *, limit: int = 100, after_seconds: float = forgettings.LATE_SECONDS
) -> int:
    """Look once more where an object may have come late, of what was erased so long ago and every worker has obeyed,
    and let go of these rows; how many. Raises as `clear`.
    """
    with database.reading() as tx:
        rows = forgettings.over(tx, limit=limit, late_seconds=after_seconds)
    for row in rows:
        late = purge(database, storage, row.tenant, _keys_under(database, storage, row))
        late += _purge_galleries(storage, row) + _purge_earlier(database, storage, row)
        _purge_sent(database, storage, row)
        if late:
            log.info("%d objects that were stored while their person was erased are removed", late)
        with database.transaction() as tx:
            forgettings.close(tx, row.id)
    return len(rows)


def purge(database: Database, storage: Storage, tenant: str, keys: Iterable[str]) -> int:
    """Remove those of these objects that no row names, with their earlier versions; how many.

    Raises BadKey for one that is not this tenant's.
    """
    removed = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="clearing") as pool:
        for page in parts(keys, PAGE):
            if strange := next((key for key in page if not key.startswith(f"{tenant}/")), None):
                raise BadKey(f"{strange!r} is no key of tenant {tenant!r}; wanted what erasing somebody of it has told")
            free = unnamed(database, tenant, page)
            list(pool.map(storage.purge, free))
            removed += len(free)
    return removed


def everything_under(storage: Storage, prefix: str) -> Iterator[str]:
    """What a listing shows under a prefix, and what the store keeps of removed objects there."""
    yield from storage.list(prefix)
    yield from storage.earlier(prefix)


def gallery_keys(storage: Storage, tenant: str, job_id: str, token: int) -> Iterator[str]:
    """What galleries of a job were built of under claims up to this one."""
    folder = f"{tenant}/{job_id}/gallery/"
    for key in everything_under(storage, folder):
        built = key.removeprefix(folder).partition("/")[0]
        if not built.isascii() or not built.isdigit() or int(built) <= token:
            yield key


def _clear_row(database: Database, storage: Storage, row: ForgettingRow) -> int:
    _purge_sent(database, storage, row)
    removed = purge(database, storage, row.tenant, row.keys or []) + _purge_galleries(storage, row)
    return removed + _purge_earlier(database, storage, row)


def _purge_earlier(database: Database, storage: Storage, row: ForgettingRow) -> int:
    """What a bucket keeps of objects that no row named any more when their person was erased: of lost claims, damaged
    weight sets, whatever a sweep removed. Where nothing is kept, nothing is looked for.
    """
    if not storage.keeps_versions():
        return 0
    sets = (f"{row.tenant}/weights/{one}-" for one in row.names.get("weight_sets", []))
    prefixes = [*row.names.get("folders", []), *sets]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="looking") as pool:
        found = pool.map(lambda prefix: list(everything_under(storage, prefix)), prefixes)
        return purge(database, storage, row.tenant, (key for keys in found for key in keys))


def _purge_sent(database: Database, storage: Storage, row: ForgettingRow) -> None:
    """What was sent ahead of these photos' jobs and was let go of when they came: a bucket may keep versions of it, or
    somebody has sent it again. Mostly there is nothing, so it is not counted.
    """
    purge(database, storage, row.tenant, (prefix for prefix in row.prefixes if _is_sent(row.tenant, prefix)))


def _is_sent(tenant: str, prefix: str) -> bool:
    return prefix.startswith(upload_key(tenant, ""))


def _purge_galleries(storage: Storage, row: ForgettingRow) -> int:
    """Pages and sheets that show the person; what was built since does not, and stays."""
    removed = 0
    for told in row.names.get("galleries", []):
        job_id, _, token = told.partition(" ")
        for key in list(gallery_keys(storage, row.tenant, job_id, int(token))):
            storage.purge(key)
            removed += 1
    return removed


def _keys_under(database: Database, storage: Storage, row: ForgettingRow) -> Iterator[str]:
    """What lies where an object may have come late; nothing of a whole tenant that has come back since."""
    for prefix in row.prefixes:
        if _is_sent(row.tenant, prefix):
            continue
        if prefix == f"{row.tenant}/":
            with database.reading() as tx:
                if row.tenant in tenant_rows.tenants(tx):
                    continue
        yield from everything_under(storage, prefix)
