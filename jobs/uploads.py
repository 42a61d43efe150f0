"""Photos that are sent before a job names them: announced with their SHA-256, sent under an address that expires.

An upload lies apart from the photos that jobs have named: what was sent is only a photo once enqueueing has found its
bytes to have the hash that was announced and has decoded them within the limits. Then it is stored as every photo is,
and the upload goes. One that no job names goes when it has expired.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence

from jobs import quotas
from jobs.database import Database
from jobs.errors import RequestInvalid, RequestTooLarge, UploadRefused
from jobs.orm import utcnow
from jobs.repository import uploads as rows
from jobs.repository.uploads import UploadRow
from jobs.settings import Settings
from jobs.storage import Announced, Storage

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")
GRACE = dt.timedelta(hours=1)
"""So long after its end an upload still lies there: for a job that was being enqueued when it expired."""
_CHUNK = 500


def upload_key(tenant: str, sha256: str) -> str:
    """Where a photo lies from its sending to its job."""
    return f"{tenant}/uploads/{sha256}"


def announce(
    database: Database, storage: Storage, settings: Settings, tenant: str, what: Announced
) -> UploadRow | None:
    """Note that a photo will be sent; None when it is stored already, and need not be.

    Raises RequestInvalid, RequestTooLarge, QuotaExceeded.
    """
    if what.media_type not in MEDIA_TYPES:
        raise RequestInvalid(f"wanted a media type of {', '.join(MEDIA_TYPES)}, found {what.media_type[:80]!r}")
    if what.size_bytes > settings.max_photo_bytes:
        raise RequestTooLarge(f"the photo has {what.size_bytes} bytes, at most {settings.max_photo_bytes} are allowed")
    with database.reading(tenant) as tx:
        stored = rows.photo(tx, tenant, what.sha256)
    if stored is not None and storage.size(stored.storage_key) == stored.size_bytes:
        return None
    until = utcnow() + dt.timedelta(seconds=settings.upload_seconds)
    key = upload_key(tenant, what.sha256)
    row = UploadRow(tenant, what.sha256, key, what.media_type, what.size_bytes, until)
    with database.transaction(tenant) as tx:
        # Its own row first: announced again, it is neither one more nor more bytes.
        rows.remove(tx, tenant, [what.sha256])
        quotas.check_upload(tx, tenant, what.size_bytes, most_uploads=settings.max_uploads)
        rows.announce(tx, row)
    return row


def accept(database: Database, storage: Storage, tenant: str, what: Announced, data: bytes) -> None:
    """Store what was sent, if it is what was announced. Raises UploadRefused."""
    with database.reading(tenant) as tx:
        row = rows.find(tx, tenant, what.sha256)
    if row is None:
        raise UploadRefused("this photo is not announced, or no longer; announce it again (POST /photos)")
    if len(data) != what.size_bytes:
        raise UploadRefused(f"wanted {what.size_bytes} bytes as announced, found {len(data)}; send the whole file")
    if hashlib.sha256(data).hexdigest() != what.sha256:
        raise UploadRefused("what was sent has another SHA-256 than was announced; send the file that was hashed")
    storage.put(row.storage_key, data, content_type=what.media_type)
    with database.reading(tenant) as tx:
        is_wanted = rows.find(tx, tenant, what.sha256) is not None
    if not is_wanted:  # its job or its person went on meanwhile: no row would ever have it removed
        storage.delete(row.storage_key)
        raise UploadRefused("this photo is no longer announced; announce it again (POST /photos)")


def let_go(database: Database, storage: Storage, tenant: str, sha256s: Sequence[str]) -> None:
    """Remove these uploads, which are photos now; whatever of them is not an upload is left alone."""
    for start in range(0, len(sha256s), _CHUNK):
        _remove(database, tenant, sha256s[start : start + _CHUNK], storage.delete)


def remove_expired(database: Database, storage: Storage, *, tenant: str | None = None, limit: int = _CHUNK) -> int:
    """Remove uploads of a tenant, or of all, that no job has named in time, `limit` at most; how many went."""
    with database.reading(tenant) as tx:
        found = rows.expired(tx, before=utcnow() - GRACE, tenant_id=tenant, limit=limit)
    for row in found:
        # With its versions: no row will ever say whose it was, so nobody's erasure would find them.
        _remove(database, row.tenant_id, [row.sha256], storage.purge)
    return len(found)


def _remove(database: Database, tenant: str, sha256s: Sequence[str], remove: Callable[[str], None]) -> None:
    """Rows first: what is left when this is interrupted is an object that no row names, which a sweep removes."""
    with database.transaction(tenant) as tx:
        keys = rows.remove(tx, tenant, sha256s)
    for key in keys:
        remove(key)
