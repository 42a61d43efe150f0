"""Who has been kept for longer than their tenant allows, and which photos nobody names any more.

Somebody was last used when the last picture of them, or of whatever was made of them, was finished, or when photos of
them came. Work that waits protects them, and so does work that waits for a slider made of them.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Text, cast, delete, exists, func, or_, select, text, update

from jobs.database import epoch_now
from jobs.models import ARCHIVED_UNITS, Identity, JobPicture, Photo, PhotoSet, PhotoSetPhoto, Render, Tenant, Unit
from jobs.models_fleet import Leader
from jobs.repository import fleet
from jobs.repository.erasure import Made
from jobs.repository.parts import parts
from jobs.repository.tenants import OPEN_STATES

OFFICE = "retention"
# Deleting is the right that erasing rests on, and updating the list of what is to go the one that clearing up does.
_RIGHTS = text(
    "SELECT has_table_privilege('forgettings', 'UPDATE') AS may_clear, "
    "has_table_privilege('identities', 'DELETE') AS may_erase"
)


def rights(tx: Connection) -> tuple[bool, bool]:
    """Whether this login may clear up after erasures, and whether it may erase."""
    if tx.dialect.name != "postgresql":
        return True, True
    row = tx.execute(_RIGHTS).one()
    return bool(row.may_clear), bool(row.may_erase)


def begin(tx: Connection, *, seconds: float) -> bool:
    """Whether the day's sweep is due; nobody else begins it within these seconds."""
    return fleet.elect(tx, OFFICE, str(uuid.uuid4()), seconds=seconds)


def is_due(tx: Connection) -> bool:
    """Whether `begin` would say so; a read."""
    until = tx.execute(select(Leader.until).where(Leader.name == OFFICE)).scalar_one_or_none()
    return until is None or until < tx.execute(select(epoch_now())).scalar_one()


def rest(tx: Connection, *, seconds: float) -> None:
    """The sweep is done; the next one is due in so many seconds."""
    tx.execute(update(Leader).where(Leader.name == OFFICE).values(owner=None, until=epoch_now() + seconds))


def kept_days(tx: Connection, default: int | None) -> dict[str, int]:
    """For how many days each tenant keeps people; those that keep them for ever are left out."""
    days = func.coalesce(Tenant.retention_days, default)
    rows = tx.execute(select(Tenant.id, days.label("days")).where(days.is_not(None)).order_by(Tenant.id))
    return {row.id: int(row.days) for row in rows}


def candidates(
    tx: Connection, tenant_id: str, before: dt.datetime, *, after: uuid.UUID | None = None, limit: int = 100
) -> list[uuid.UUID]:
    """People of whom nothing of their own waits, was drawn, or came since `before`; whether they are due says
    `was_used`, which looks at what was made of them too.
    """
    person = (Unit.tenant_id == tenant_id, Unit.identity_id == Identity.id)
    kept = ARCHIVED_UNITS.c
    used = or_(
        exists().where(*person, or_(Unit.state.in_(OPEN_STATES), Unit.finished_at >= before)),
        exists().where(kept.tenant_id == tenant_id, kept.identity_id == Identity.id, kept.finished_at >= before),
        exists().where(
            PhotoSet.tenant_id == tenant_id, PhotoSet.identity_id == Identity.id, PhotoSet.created_at >= before
        ),
    )
    statement = select(Identity.id).where(Identity.tenant_id == tenant_id, Identity.created_at < before, ~used)
    if after is not None:
        statement = statement.where(Identity.id > after)
    return list(tx.execute(statement.order_by(Identity.id).limit(limit)).scalars())


def was_used(tx: Connection, tenant_id: str, made: Made, before: dt.datetime) -> bool:
    """Whether something that was made from a person waits, was drawn or came since `before`."""
    return any(
        _any(tx, tenant_id, some, before) or _is_waited_for(tx, tenant_id, some) for some in parts(made.photo_sets)
    )


def _any(tx: Connection, tenant_id: str, sets: Sequence[uuid.UUID], before: dt.datetime) -> bool:
    kept = ARCHIVED_UNITS.c
    of_sets = (Unit.tenant_id == tenant_id, Unit.photo_set_id.in_(sets))
    looks: tuple[Any, ...] = (
        select(Unit.id).where(*of_sets, or_(Unit.state.in_(OPEN_STATES), Unit.finished_at >= before)),
        select(kept.id).where(kept.tenant_id == tenant_id, kept.photo_set_id.in_(sets), kept.finished_at >= before),
        select(PhotoSet.id).where(
            PhotoSet.tenant_id == tenant_id, PhotoSet.id.in_(sets), PhotoSet.created_at >= before
        ),
    )
    return any(tx.execute(look.limit(1)).first() is not None for look in looks)


def _is_waited_for(tx: Connection, tenant_id: str, sets: Sequence[uuid.UUID]) -> bool:
    """Whether one of these sets is a slider that a waiting picture of somebody else names in its options."""
    slider = (PhotoSet.tenant_id == tenant_id, PhotoSet.id.in_(sets), PhotoSet.kind == "slider")
    for photo_set in tx.execute(select(PhotoSet.id).where(*slider)).scalars().all():
        waits = (
            select(Render.id)
            .join(Unit, (Unit.tenant_id == Render.tenant_id) & (Unit.id == Render.unit_id))
            .where(Unit.tenant_id == tenant_id, Unit.state.in_(OPEN_STATES), Render.state == "waiting")
            .where(cast(Render.options, Text).like(f"%{photo_set}%"))
        )
        if tx.execute(waits.limit(1)).first() is not None:
            return True
    return False


def remove_unnamed_photos(
    tx: Connection, tenant_id: str, before: dt.datetime, *, limit: int
) -> tuple[list[str], list[str]]:
    """Remove photos that came before and that no photo set and no job names; (SHA-256, keys) of those that went."""
    place, given = PhotoSetPhoto, JobPicture
    in_set = exists().where(place.tenant_id == tenant_id, place.photo_id == Photo.id)
    in_job = exists().where(given.tenant_id == tenant_id, given.photo_id == Photo.id)
    unnamed = select(Photo.id).where(Photo.tenant_id == tenant_id, Photo.created_at < before, ~in_set, ~in_job)
    ids = list(tx.execute(unnamed.order_by(Photo.id).limit(limit).with_for_update(skip_locked=True)).scalars())
    gone = delete(Photo).where(Photo.tenant_id == tenant_id, Photo.id.in_(ids))
    rows = tx.execute(gone.returning(Photo.sha256, Photo.storage_key)).all() if ids else []
    return [row.sha256 for row in rows], [row.storage_key for row in rows]
