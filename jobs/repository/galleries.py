"""Leases on galleries: which are to be made, by whom, and which one is in force.

A gallery is claimed as a unit is: a token one higher than any before fences whoever builds more slowly. Each builder
writes under its own token, so that pages of two never mix, and the row names the token in force. What is asked for
again while somebody builds moves `due_at`, which the builder has noted: the gallery stays due then.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, case, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models_outside import Gallery
from jobs.orm import utcnow

MOST_ATTEMPTS = 6
"""So many builders may fail, or be lost, before a gallery is left as it is until it is asked for again."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10.0, 3600.0
GIVEN_UP = (
    "{attempts} builders were lost with this gallery, so it is made no more; look into their logs, then "
    "`portraits gallery {job_id} --build`"
)


@dataclass(frozen=True)
class ClaimedGallery:
    """A gallery in this builder's hands; `due_at` is the moment for which it was asked."""

    tenant_id: str
    job_id: uuid.UUID
    owner: str
    lease_token: int
    attempts: int
    due_at: float


def make_due(tx: Connection, tenant_id: str, job_id: uuid.UUID, after_seconds: float = 0.0) -> None:
    """Ask for a job's gallery to be made, or made anew, so many seconds from now; an earlier wish stands."""
    upsert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    due_at = epoch_now() + after_seconds
    wish = case(
        (or_(Gallery.due_at.is_(None), Gallery.lease_owner.is_not(None), Gallery.due_at > due_at), due_at),
        else_=Gallery.due_at,
    )
    fresh = upsert(Gallery).values(tenant_id=tenant_id, job_id=job_id, due_at=due_at, lease_token=0, attempts=0)
    tx.execute(
        fresh.on_conflict_do_update(index_elements=["tenant_id", "job_id"], set_={"due_at": wish, "attempts": 0})
    )


def find(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> RowMapping | None:
    """A job's gallery as its row has it; None where none was ever asked for."""
    statement = select(*Gallery.__table__.c).where(Gallery.tenant_id == tenant_id, Gallery.job_id == job_id)
    return tx.execute(statement).mappings().one_or_none()


def is_any_due(tx: Connection) -> bool:
    """Whether a claim would find something; a read that takes no lock."""
    return tx.execute(select(Gallery.job_id).where(_claimable()).limit(1)).first() is not None


def claim(
    tx: Connection, owner: str, *, lease_seconds: float, job: tuple[str, uuid.UUID] | None = None
) -> ClaimedGallery | None:
    """Take the gallery that has been due for longest, or that of `job` (tenant, id); None where there is none."""
    wanted = select(Gallery.tenant_id, Gallery.job_id, Gallery.attempts).where(_claimable())
    if job is not None:
        wanted = wanted.where(Gallery.tenant_id == job[0], Gallery.job_id == job[1])
    wanted = wanted.order_by(Gallery.due_at).limit(1).with_for_update(skip_locked=True)
    while (found := tx.execute(wanted).one_or_none()) is not None:
        mine = (Gallery.tenant_id == found.tenant_id, Gallery.job_id == found.job_id)
        if found.attempts >= MOST_ATTEMPTS:
            told = GIVEN_UP.format(attempts=found.attempts, job_id=found.job_id)
            tx.execute(update(Gallery).where(*mine).values(due_at=None, error=told, **_RELEASED))
            continue
        statement = (
            update(Gallery)
            .where(*mine)
            .values(
                lease_owner=owner,
                lease_token=Gallery.lease_token + 1,
                lease_until=epoch_now() + lease_seconds,
                attempts=Gallery.attempts + 1,
            )
            .returning(Gallery.lease_token, Gallery.attempts, Gallery.due_at)
        )
        row = tx.execute(statement).one()
        return ClaimedGallery(found.tenant_id, found.job_id, owner, row.lease_token, row.attempts, row.due_at)
    return None


def prolong(tx: Connection, gallery: ClaimedGallery, *, lease_seconds: float) -> bool:
    """A sign of life; False when the gallery is in other hands."""
    values = {"lease_until": epoch_now() + lease_seconds}
    return tx.execute(update(Gallery).where(*_held(gallery)).values(**values)).rowcount == 1


def complete(tx: Connection, gallery: ClaimedGallery, *, pictures: int) -> bool:
    """Put what was built in force; False when the builder was fenced out. What was asked for meanwhile stays due."""
    values: dict[str, Any] = {
        "built_at": utcnow(),
        "built_token": gallery.lease_token,
        "pictures": pictures,
        "attempts": 0,
        "error": None,
        "due_at": case((Gallery.due_at == gallery.due_at, None), else_=Gallery.due_at),
    }
    return tx.execute(update(Gallery).where(*_held(gallery)).values(**values, **_RELEASED)).rowcount == 1


def release(tx: Connection, gallery: ClaimedGallery) -> None:
    """Hand back what was not built, at no fault of the gallery's: it is due as before."""
    values: dict[str, Any] = {"attempts": Gallery.attempts - 1}
    tx.execute(update(Gallery).where(*_held(gallery)).values(**values, **_RELEASED))


def fail(tx: Connection, gallery: ClaimedGallery, error: str, *, retryable: bool) -> None:
    """Note why it could not be built, and when to try again: soon and for ever if a service was away (`retryable`),
    else after longer and longer waits, `MOST_ATTEMPTS` times.
    """
    wait = min(FIRST_WAIT_SECONDS * 2 ** (gallery.attempts - 1), LONGEST_WAIT_SECONDS)
    is_last = not retryable and gallery.attempts >= MOST_ATTEMPTS
    values: dict[str, Any] = {
        "error": error,
        "due_at": None if is_last else epoch_now() + (FIRST_WAIT_SECONDS if retryable else wait),
        "attempts": Gallery.attempts - 1 if retryable else Gallery.attempts,
    }
    tx.execute(update(Gallery).where(*_held(gallery)).values(**values, **_RELEASED))


def void(tx: Connection, tenant_id: str, job_ids: Sequence[uuid.UUID]) -> None:
    """Take galleries out of force and fence out whoever builds them, as after a person of theirs was erased; they are
    due at once.
    """
    mine = (Gallery.tenant_id == tenant_id, Gallery.job_id.in_(job_ids))
    values: dict[str, Any] = {
        "built_token": None,
        "built_at": None,
        "pictures": None,
        "error": None,
        "attempts": 0,
        "lease_token": Gallery.lease_token + 1,
        "due_at": epoch_now(),
    }
    tx.execute(update(Gallery).where(*mine).values(**values, **_RELEASED))


def drop(tx: Connection, tenant_id: str, job_ids: Sequence[uuid.UUID]) -> None:
    """Remove the rows of jobs that are about to go."""
    tx.execute(delete(Gallery).where(Gallery.tenant_id == tenant_id, Gallery.job_id.in_(job_ids)))


def tokens(
    tx: Connection, tenant_id: str, job_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, tuple[int | None, int | None]]:
    """Of each of these jobs' galleries the token in force and the one under which somebody builds."""
    building = case((Gallery.lease_owner.is_not(None), Gallery.lease_token), else_=None)
    statement = select(Gallery.job_id, Gallery.built_token, building.label("building"))
    rows = tx.execute(statement.where(Gallery.tenant_id == tenant_id, Gallery.job_id.in_(job_ids)))
    return {row.job_id: (row.built_token, row.building) for row in rows}


def faults(tx: Connection, *, limit: int = 20) -> list[RowMapping]:
    """Galleries that could not be built, for whoever looks after the installation."""
    columns = (Gallery.tenant_id, Gallery.job_id, Gallery.error, Gallery.attempts, Gallery.due_at)
    statement = select(*columns).where(Gallery.error.is_not(None)).order_by(Gallery.job_id.desc()).limit(limit)
    return list(tx.execute(statement).mappings())


def overdue_seconds(tx: Connection) -> float | None:
    """For how long the gallery that waits for longest has been due; None where none is."""
    seconds: float | None = tx.execute(select(epoch_now() - func.min(Gallery.due_at)).where(_claimable())).scalar()
    return seconds


_RELEASED: dict[str, Any] = {"lease_owner": None, "lease_until": None}


def _claimable() -> ColumnElement[bool]:
    free = or_(Gallery.lease_until.is_(None), Gallery.lease_until < epoch_now())
    return and_(Gallery.due_at <= epoch_now(), free)


def _held(gallery: ClaimedGallery) -> tuple[ColumnElement[bool], ...]:
    mine = (Gallery.tenant_id == gallery.tenant_id, Gallery.job_id == gallery.job_id)
    return (*mine, Gallery.lease_owner == gallery.owner, Gallery.lease_token == gallery.lease_token)
