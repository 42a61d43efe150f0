"""Weight sets: claimed like units, so that two workers never generate the same one.

`attempts` counts the workers that were lost while they made a set, and the one that makes it: a fault that was told
gives its attempt back. A set that has lost too many is quarantined: `failed`, and all units of its person with it. Who
was lost with it once makes it alone, so no innocent set ends so.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.errors import SourceMissing, UnknownWeightSet
from jobs.models import Photo, PhotoSet, PhotoSetMember, PhotoSetPhoto, WeightSet, WeightSetSource
from jobs.orm import new_id, utcnow
from jobs.repository.reaping import QUARANTINED
from jobs.repository.units import MOST_LOST_WORKERS

QUARANTINED_MESSAGE = (
    "{lost} workers were lost while they made this weight set, all but the first with no other set in hand, so it is "
    "made no more; look into the workers' logs and at its photos, then `portraits retry JOB --quarantined`"
)


@dataclass(frozen=True)
class StoredPhoto:
    """A reference photo and where it lies; `face` says which of its faces is meant, None for the clearest."""

    position: int
    photo_id: uuid.UUID
    storage_key: str
    sha256: str
    face: str | None = None


@dataclass(frozen=True)
class Member:
    """One of the photo sets that another is made of.

    `region` and `prompt` are there only where people stand side by side: [left, top, right, bottom] in shares of the
    picture, or {"mask": Picture}.
    """

    photo_set_id: uuid.UUID
    weight: float
    region: list[float] | dict[str, Any] | None
    prompt: str | None


@dataclass(frozen=True)
class Source:
    """What an identity or a slider is made of.

    `kind` is photos, mix, together, slider (members: edited, original) or weights (`weight_set_fingerprint`).
    """

    photo_set_id: uuid.UUID
    kind: str
    fingerprint: str
    weight_set_fingerprint: str | None
    photos: tuple[StoredPhoto, ...]
    members: tuple[Member, ...]


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
    kind: str = "photos"
    branch: str = "id"


_ROW = tuple(getattr(WeightSet, name) for name in WeightSetRow.__dataclass_fields__)


def source(tx: Connection, tenant_id: str, photo_set_id: uuid.UUID) -> Source:
    """What a photo set is made of: its photos and its members, each in order.

    Raises SourceMissing when the tenant has no such set, as after its person was erased.
    """
    mine = (PhotoSet.tenant_id == tenant_id, PhotoSet.id == photo_set_id)
    wanted = select(PhotoSet.kind, PhotoSet.fingerprint, PhotoSet.weight_set_fingerprint).where(*mine)
    row = tx.execute(wanted).one_or_none()
    if row is None:
        raise SourceMissing(
            f"tenant {tenant_id!r} has no photo set {photo_set_id}; its person was erased, so enqueue a job without it"
        )
    photos = (
        select(PhotoSetPhoto.position, Photo.id, Photo.storage_key, Photo.sha256, PhotoSetPhoto.face)
        .join(Photo, and_(Photo.tenant_id == PhotoSetPhoto.tenant_id, Photo.id == PhotoSetPhoto.photo_id))
        .where(PhotoSetPhoto.tenant_id == tenant_id, PhotoSetPhoto.photo_set_id == photo_set_id)
        .order_by(PhotoSetPhoto.position)
    )
    members = (
        select(PhotoSetMember.member_photo_set_id, PhotoSetMember.weight, PhotoSetMember.region, PhotoSetMember.prompt)
        .where(PhotoSetMember.tenant_id == tenant_id, PhotoSetMember.photo_set_id == photo_set_id)
        .order_by(PhotoSetMember.position)
    )
    return Source(
        photo_set_id,
        row.kind,
        row.fingerprint,
        row.weight_set_fingerprint,
        tuple(StoredPhoto(*photo) for photo in tx.execute(photos)),
        tuple(Member(*one) for one in tx.execute(members)),
    )


def find(tx: Connection, tenant_id: str, fingerprint: str) -> WeightSetRow | None:
    """The weight set of this fingerprint, if anybody has begun it."""
    statement = select(*_ROW).where(WeightSet.tenant_id == tenant_id, WeightSet.fingerprint == fingerprint)
    row = tx.execute(statement).one_or_none()
    return WeightSetRow(*row) if row else None


def known(tx: Connection, tenant_id: str, fingerprints: Sequence[str]) -> dict[str, WeightSetRow]:
    """Those of these weight sets that the tenant has, by fingerprint."""
    wanted = (WeightSet.tenant_id == tenant_id, WeightSet.fingerprint.in_(fingerprints))
    return {row.fingerprint: WeightSetRow(*row) for row in tx.execute(select(*_ROW).where(*wanted))}


def states(tx: Connection, tenant_id: str, fingerprints: Sequence[str]) -> dict[str, str]:
    """The state of each of these weight sets that the tenant has."""
    return {fingerprint: row.state for fingerprint, row in known(tx, tenant_id, fingerprints).items()}


def begin(
    tx: Connection,
    tenant_id: str,
    fingerprint: str,
    *,
    hyperlora_fingerprint: str,
    kind: str = "photos",
    branch: str = "id",
    sources: Sequence[tuple[uuid.UUID, float]] = (),
) -> None:
    """Make the row of a weight set unless somebody has, and name the photo sets among its sources with their weights.

    The same photos under two names are one weight set with two sources: erasing either person reaches it.
    """
    _insert_or_ignore(
        tx,
        tenant_id,
        fingerprint,
        kind=kind,
        branch=branch,
        state="pending",
        hyperlora_fingerprint=hyperlora_fingerprint,
        generations=0,
    )
    mine = (WeightSet.tenant_id == tenant_id, WeightSet.fingerprint == fingerprint)
    weight_set_id = tx.execute(select(WeightSet.id).where(*mine).with_for_update()).scalar_one()
    of_set = (WeightSetSource.tenant_id == tenant_id, WeightSetSource.weight_set_id == weight_set_id)
    known = list(tx.execute(select(WeightSetSource.photo_set_id).where(*of_set)).scalars())
    for photo_set, weight in sources:
        if photo_set not in known:
            row = {"tenant_id": tenant_id, "weight_set_id": weight_set_id, "photo_set_id": photo_set}
            tx.execute(insert(WeightSetSource).values(position=len(known), weight=weight, **row))
            known.append(photo_set)


def _insert_or_ignore(tx: Connection, tenant_id: str, fingerprint: str, **values: Any) -> uuid.UUID | None:
    """Add a weight set's row and return its id; None when there is one of this fingerprint."""
    upsert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    own = {"tenant_id": tenant_id, "id": new_id(), "fingerprint": fingerprint, "created_at": utcnow()}
    statement = (
        upsert(WeightSet)
        .values(attempts=0, lease_token=0, **own, **values)
        .on_conflict_do_nothing(index_elements=["tenant_id", "fingerprint"])
        # Not the row count: PostgreSQL's driver does not tell it here.
        .returning(WeightSet.id)
    )
    added: uuid.UUID | None = tx.execute(statement).scalar_one_or_none()
    return added


def add_refined(
    tx: Connection,
    tenant_id: str,
    *,
    fingerprint: str,
    source_weight_set_fingerprint: str,
    hyperlora_fingerprint: str,
    storage_key: str,
    sha256: str,
    size_bytes: int,
    recogniser: str,
    reference_embedding: bytes,
    seconds: float,
) -> bool:
    """Record a stored weight set that was fine-tuned from another one; False when it is there already.

    Raises UnknownWeightSet when the tenant has no weight set to have come from.
    """
    came_from = find(tx, tenant_id, source_weight_set_fingerprint)
    if came_from is None:
        raise UnknownWeightSet(f"tenant {tenant_id!r} has no weight set {source_weight_set_fingerprint}")
    added = _insert_or_ignore(
        tx,
        tenant_id,
        fingerprint,
        kind="refined",
        branch=came_from.branch,
        state="ready",
        hyperlora_fingerprint=hyperlora_fingerprint,
        generations=1,
        storage_key=storage_key,
        sha256=sha256,
        size_bytes=size_bytes,
        recogniser=recogniser,
        reference_embedding=reference_embedding,
        seconds=seconds,
        finished_at=utcnow(),
    )
    if added is not None:
        row = {"tenant_id": tenant_id, "weight_set_id": added, "position": 0, "weight": 1.0}
        tx.execute(insert(WeightSetSource).values(source_weight_set_id=came_from.id, **row))
    return added is not None


def claim(
    tx: Connection,
    tenant_id: str,
    fingerprint: str,
    owner: str,
    *,
    lease_seconds: float,
    lost_key: str | None = None,
    beside_others: bool = False,
    max_lost_workers: int = MOST_LOST_WORKERS,
) -> WeightSetRow | None:
    """Take the right to generate this weight set; None when it is ready, failed or in another worker's hands.

    `lost_key` names a stored object that was found missing or damaged: a ready row that still points to it is
    taken again. `beside_others`: only if no worker was lost with it. A set that is found to have lost
    `max_lost_workers` is quarantined here.
    """
    is_mine = and_(WeightSet.state == "generating", WeightSet.lease_owner == owner)
    mine = (WeightSet.tenant_id == tenant_id, WeightSet.fingerprint == fingerprint)
    if beside_others:
        open_now = [and_(WeightSet.state == "pending", WeightSet.attempts == 0)]
    else:
        open_now = [
            WeightSet.state == "pending",
            # An owner generates one set at a time: a claim of its own that it meets here is one it lost hold of.
            is_mine,
            and_(is_expired(), WeightSet.attempts < max_lost_workers),
        ]
    if lost_key is not None:
        open_now.append(and_(WeightSet.state == "ready", WeightSet.storage_key == lost_key))
    counted = case((WeightSet.state == "ready", 1), (is_mine, WeightSet.attempts), else_=WeightSet.attempts + 1)
    statement = (
        update(WeightSet)
        .where(*mine, or_(*open_now))
        .values(
            state="generating",
            lease_owner=owner,
            lease_token=WeightSet.lease_token + 1,
            lease_until=epoch_now() + lease_seconds,
            attempts=counted,
        )
        .returning(*_ROW)
    )
    row = tx.execute(statement).one_or_none()
    if row is None:
        _quarantine(tx, and_(*mine, is_expired(), ~is_mine, WeightSet.attempts >= max_lost_workers))
    return WeightSetRow(*row) if row else None


def is_expired() -> ColumnElement[bool]:
    """The condition that a set meets whose maker has gone silent."""
    return and_(WeightSet.state == "generating", WeightSet.lease_until < epoch_now())


def _quarantine(tx: Connection, which: ColumnElement[bool]) -> None:
    """Make no more a set that ends its workers."""
    lost = tx.execute(select(WeightSet.attempts).where(which)).scalar_one_or_none()
    if lost is not None:
        reason = {"error_code": QUARANTINED, "error": QUARANTINED_MESSAGE.format(lost=lost), "finished_at": utcnow()}
        tx.execute(update(WeightSet).where(which).values(state="failed", **reason))


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
    back: dict[str, Any] = {"state": "pending", "lease_owner": None, "lease_until": None}
    statement = update(WeightSet).where(_held(row, owner)).values(attempts=WeightSet.attempts - 1, **back)
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
