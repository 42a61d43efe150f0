"""Weight sets: claimed like units, so that two workers never generate the same one."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models import Photo, PhotoSet, PhotoSetPhoto, WeightSet, WeightSetSource, new_id, utcnow


@dataclass(frozen=True)
class StoredPhoto:
    """A reference photo and where it lies."""

    position: int
    photo_id: uuid.UUID
    storage_key: str
    sha256: str


@dataclass(frozen=True)
class WeightSetRow:
    """A weight set as the database knows it at this moment."""

    tenant_id: str
    id: uuid.UUID
    fingerprint: str
    state: str
    lease_token: int
    storage_key: str | None
    sha256: str | None
    recogniser: str | None
    reference_embedding: bytes | None
    seconds: float | None
    error_code: str | None
    error: str | None


_ROW = tuple(getattr(WeightSet, name) for name in WeightSetRow.__dataclass_fields__)


def photo_set(tx: Connection, tenant_id: str, photo_set_id: uuid.UUID) -> tuple[str, list[StoredPhoto]]:
    """The fingerprint of a photo set, and its photos in order."""
    fingerprint = tx.execute(
        select(PhotoSet.fingerprint).where(PhotoSet.tenant_id == tenant_id, PhotoSet.id == photo_set_id)
    ).scalar_one()
    statement = (
        select(PhotoSetPhoto.position, Photo.id, Photo.storage_key, Photo.sha256)
        .join(Photo, and_(Photo.tenant_id == PhotoSetPhoto.tenant_id, Photo.id == PhotoSetPhoto.photo_id))
        .where(PhotoSetPhoto.tenant_id == tenant_id, PhotoSetPhoto.photo_set_id == photo_set_id)
        .order_by(PhotoSetPhoto.position)
    )
    return fingerprint, [StoredPhoto(*row) for row in tx.execute(statement)]


def find(tx: Connection, tenant_id: str, fingerprint: str) -> WeightSetRow | None:
    """The weight set of this fingerprint, if anybody has begun it."""
    statement = select(*_ROW).where(WeightSet.tenant_id == tenant_id, WeightSet.fingerprint == fingerprint)
    row = tx.execute(statement).one_or_none()
    return WeightSetRow(*row) if row else None


def begin(
    tx: Connection, tenant_id: str, fingerprint: str, *, hyperlora_fingerprint: str, photo_set_id: uuid.UUID
) -> None:
    """Make the row of a weight set unless somebody has, and name the photo set among its sources.

    The same photos under two names are one weight set with two sources: erasing either person reaches it.
    """
    insert_or_ignore = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    tx.execute(
        insert_or_ignore(WeightSet)
        .values(
            tenant_id=tenant_id,
            id=new_id(),
            fingerprint=fingerprint,
            kind="photos",
            state="pending",
            hyperlora_fingerprint=hyperlora_fingerprint,
            generations=0,
            attempts=0,
            lease_token=0,
            created_at=utcnow(),
        )
        .on_conflict_do_nothing(index_elements=["tenant_id", "fingerprint"])
    )
    mine = (WeightSet.tenant_id == tenant_id, WeightSet.fingerprint == fingerprint)
    weight_set_id = tx.execute(select(WeightSet.id).where(*mine).with_for_update()).scalar_one()
    of_set = (WeightSetSource.tenant_id == tenant_id, WeightSetSource.weight_set_id == weight_set_id)
    known = list(tx.execute(select(WeightSetSource.photo_set_id).where(*of_set)).scalars())
    if photo_set_id not in known:
        row = {"tenant_id": tenant_id, "weight_set_id": weight_set_id, "photo_set_id": photo_set_id}
        tx.execute(insert(WeightSetSource).values(position=len(known), weight=1.0, **row))


def claim(
    tx: Connection, tenant_id: str, fingerprint: str, owner: str, *, lease_seconds: float, lost_key: str | None = None
) -> WeightSetRow | None:
    """Take the right to generate this weight set; None when it is ready, failed or in another worker's hands.

    `lost_key` names a stored object that was found missing or damaged: a ready row that still points to it is
    taken again.
    """
    open_now: list[ColumnElement[bool]] = [
        WeightSet.state == "pending",
        # An owner generates one set at a time: a claim of its own that it meets here is one it lost hold of.
        and_(WeightSet.state == "generating", WeightSet.lease_owner == owner),
        and_(WeightSet.state == "generating", WeightSet.lease_until < epoch_now()),
    ]
    if lost_key is not None:
        open_now.append(and_(WeightSet.state == "ready", WeightSet.storage_key == lost_key))
    statement = (
        update(WeightSet)
        .where(WeightSet.tenant_id == tenant_id, WeightSet.fingerprint == fingerprint, or_(*open_now))
        .values(
            state="generating",
            lease_owner=owner,
            lease_token=WeightSet.lease_token + 1,
            lease_until=epoch_now() + lease_seconds,
            attempts=WeightSet.attempts + 1,
        )
        .returning(*_ROW)
    )
    row = tx.execute(statement).one_or_none()
    return WeightSetRow(*row) if row else None


def heartbeat(tx: Connection, row: WeightSetRow, owner: str, *, lease_seconds: float) -> None:
    """Prolong the one claim that this worker is working on."""
    tx.execute(update(WeightSet).where(_held(row, owner)).values(lease_until=epoch_now() + lease_seconds))


def _held(row: WeightSetRow, owner: str) -> ColumnElement[bool]:
    return and_(
        WeightSet.tenant_id == row.tenant_id,
        WeightSet.id == row.id,
        WeightSet.state == "generating",
        WeightSet.lease_owner == owner,
        WeightSet.lease_token == row.lease_token,
    )


def finish(
    tx: Connection,
    row: WeightSetRow,
    owner: str,
    *,
    storage_key: str,
    sha256: str,
    size_bytes: int,
    recogniser: str,
    reference_embedding: bytes,
    seconds: float,
) -> bool:
    """Record a generated and stored weight set; False when fenced out."""
    statement = (
        update(WeightSet)
        .where(_held(row, owner))
        .values(
            state="ready",
            storage_key=storage_key,
            sha256=sha256,
            size_bytes=size_bytes,
            recogniser=recogniser,
            reference_embedding=reference_embedding,
            seconds=seconds,
            generations=WeightSet.generations + 1,
            finished_at=utcnow(),
            error_code=None,
            error=None,
        )
    )
    return tx.execute(statement).rowcount == 1


def fail(tx: Connection, row: WeightSetRow, owner: str, *, error_code: str, error: str) -> bool:
    """Record why no weight set can be made from these photos; False when fenced out."""
    statement = (
        update(WeightSet)
        .where(_held(row, owner))
        .values(state="failed", error_code=error_code, error=error, finished_at=utcnow())
    )
    return tx.execute(statement).rowcount == 1


def give_back(tx: Connection, row: WeightSetRow, owner: str) -> bool:
    """Let somebody else generate it, after a fault that was not the photos'."""
    statement = update(WeightSet).where(_held(row, owner)).values(state="pending", lease_owner=None, lease_until=None)
    return tx.execute(statement).rowcount == 1


def record_verdicts(
    tx: Connection, tenant_id: str, photo_set_id: uuid.UUID, verdicts: Sequence[tuple[int, str, str | None]]
) -> None:
    """Note what the worker found in each photo: (position, verdict, reason)."""
    for position, verdict, reason in verdicts:
        tx.execute(
            update(PhotoSetPhoto)
            .where(
                PhotoSetPhoto.tenant_id == tenant_id,
                PhotoSetPhoto.photo_set_id == photo_set_id,
                PhotoSetPhoto.position == position,
            )
            .values(verdict=verdict, reason=reason)
        )
