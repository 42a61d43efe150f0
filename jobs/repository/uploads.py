"""Photos that were announced, and perhaps sent, before a job names them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from jobs.models import Photo
from jobs.models_outside import Upload
from jobs.orm import new_id, utcnow


@dataclass(frozen=True)
class UploadRow:
    """A photo that may be sent until `expires_at`."""

    tenant_id: str
    sha256: str
    storage_key: str
    media_type: str
    size_bytes: int
    expires_at: dt.datetime


@dataclass(frozen=True)
class StoredPhoto:
    """A photo that jobs have named before: where it lies and what was measured then."""

    sha256: str
    storage_key: str
    media_type: str
    size_bytes: int
    width: int
    height: int


_UPLOAD = tuple(getattr(Upload, name) for name in UploadRow.__dataclass_fields__)
_PHOTO = tuple(getattr(Photo, name) for name in StoredPhoto.__dataclass_fields__)


def announce(tx: Connection, row: UploadRow) -> None:
    """Note that a photo may be sent; one that was announced before may be sent for longer."""
    values = {name: getattr(row, name) for name in UploadRow.__dataclass_fields__}
    changing = {name: values[name] for name in ("media_type", "size_bytes", "expires_at")}
    insert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    statement = insert(Upload).values(id=new_id(), created_at=utcnow(), **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["tenant_id", "sha256"], set_=changing))


def find(tx: Connection, tenant_id: str, sha256: str) -> UploadRow | None:
    """An announced photo that has not expired."""
    mine = (Upload.tenant_id == tenant_id, Upload.sha256 == sha256, Upload.expires_at > utcnow())
    row = tx.execute(select(*_UPLOAD).where(*mine)).one_or_none()
    return UploadRow(*row) if row else None


def photo(tx: Connection, tenant_id: str, sha256: str) -> StoredPhoto | None:
    """A photo of the tenant that jobs have named before."""
    row = tx.execute(select(*_PHOTO).where(Photo.tenant_id == tenant_id, Photo.sha256 == sha256)).one_or_none()
    return StoredPhoto(*row) if row else None


def count(tx: Connection, tenant_id: str) -> int:
    """How many photos of the tenant are announced or sent, and named by no job yet."""
    return tx.execute(select(func.count()).select_from(Upload).where(Upload.tenant_id == tenant_id)).scalar_one()


def remove(tx: Connection, tenant_id: str, sha256s: Sequence[str]) -> list[str]:
    """Remove these photos' rows; returns the keys of the objects that are to go too."""
    mine = (Upload.tenant_id == tenant_id, Upload.sha256.in_(sha256s))
    return list(tx.execute(delete(Upload).where(*mine).returning(Upload.storage_key)).scalars())


def expired(tx: Connection, *, before: dt.datetime, tenant_id: str | None = None, limit: int = 500) -> list[UploadRow]:
    """Photos of a tenant, or of all, that expired before this moment, the longest ago first."""
    statement = select(*_UPLOAD).where(Upload.expires_at < before)
    if tenant_id is not None:
        statement = statement.where(Upload.tenant_id == tenant_id)
    return [UploadRow(*row) for row in tx.execute(statement.order_by(Upload.expires_at).limit(limit))]
