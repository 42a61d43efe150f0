"""Leases that ran out: the unit goes back to the queue, or ends when that has happened too often.

Each lease that is found expired is a lost worker, counted apart from attempts: faults that were told count as attempts
only. After `max_lost_workers` of them a unit is quarantined: `failed`, its open renders with the code `quarantined`.
From the first on it was drawn alone, so nobody else was in hand the other times, and no innocent one ends so.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, case, or_, select, update
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models import Unit
from jobs.orm import utcnow
from jobs.repository.jobs import record_event
from jobs.repository.units import MOST_LOST_WORKERS, expired, fail_waiting, ready

LOST_WORKER = "lost_worker"
LOST_WORKER_MESSAGE = (
    "the worker that held this unit stopped answering, after {attempts} attempts in all; see the worker's log, then "
    "`portraits retry JOB`"
)
QUARANTINED = "quarantined"
QUARANTINED_MESSAGE = (
    "{lost} workers were lost while they held this unit, all but the first with nothing else in hand, so it is tried "
    "no more; look into the workers' logs and at its photos and options, then `portraits retry JOB --quarantined`"
)


def reap(
    tx: Connection,
    *,
    max_attempts: int,
    max_lost_workers: int = MOST_LOST_WORKERS,
    grace_seconds: float = 0.0,
    limit: int = 500,
) -> tuple[int, int]:
    """Return units with expired leases to the queue, and end those tried, or lost, too often.

    The latter only `grace_seconds` after they were first seen here, as pictures of them may wait on their worker's
    disk: after an outage of the database it needs a while to find out that it can record them.

    Returns: how many were handed back, how many were given up.
    """
    lost = expired()
    hopeless = or_(Unit.attempts >= max_attempts, Unit.lost_workers + 1 >= max_lost_workers)
    _begin_grace(tx, grace_seconds, limit, lost, hopeless)
    was_seen = and_(lost, hopeless, Unit.ready_at > Unit.lease_until, Unit.ready_at <= epoch_now())
    # A unit can wait at a cap too, when the cap was lowered: it is claimed no more, so it is ended here.
    waits = and_(ready(), or_(Unit.attempts >= max_attempts, Unit.lost_workers >= max_lost_workers))
    columns = (Unit.tenant_id, Unit.id, Unit.job_id, Unit.state, Unit.attempts, Unit.lost_workers, Unit.lease_owner)
    ended = tx.execute(
        select(*columns).where(or_(was_seen, waits)).limit(limit).with_for_update(skip_locked=True)
    ).all()
    for row in ended:
        _end(tx, row, max_lost_workers)
    waiting = select(Unit.id).where(lost, ~hopeless).limit(limit).with_for_update(skip_locked=True)
    back: dict[str, Any] = {"state": "ready", "lease_owner": None, "lease_until": None, "message_sent_at": None}
    returned = tx.execute(
        update(Unit)
        .where(Unit.id.in_(waiting.scalar_subquery()), lost)
        .values(lost_workers=Unit.lost_workers + 1, **back)
    ).rowcount
    return returned, len(ended)


def _end(tx: Connection, row: Any, max_lost_workers: int) -> None:
    """Fail what waits of a unit, with the reason; what is drawn stays."""
    lost = row.lost_workers + (row.state == "leased")
    if lost >= max_lost_workers:
        code, message = QUARANTINED, QUARANTINED_MESSAGE.format(lost=lost)
    else:
        code, message = LOST_WORKER, LOST_WORKER_MESSAGE.format(attempts=row.attempts)
    failed = fail_waiting(tx, row.tenant_id, row.id, error_code=code, error=message)
    tx.execute(
        update(Unit)
        .where(Unit.tenant_id == row.tenant_id, Unit.id == row.id)
        .values(
            state=case((Unit.renders_done > 0, "done"), else_="failed"),
            renders_failed=Unit.renders_failed + failed,
            lost_workers=lost,
            lease_token=Unit.lease_token + 1,  # whoever wakes late is fenced out
            lease_owner=None,
            lease_until=None,
            finished_at=utcnow(),
            error_code=code,
            error=message,
        )
    )
    told = {"renders": failed, "lost_workers": lost, "attempts": row.attempts}
    record_event(
        tx, row.tenant_id, f"unit.{code}", job_id=row.job_id, unit_id=row.id, worker=row.lease_owner, data=told
    )


def _begin_grace(tx: Connection, seconds: float, limit: int, *lost: ColumnElement[bool]) -> None:
    """Note at units that are seen lost for the first time when they are ended: in `ready_at`, which no other leased
    unit has behind its lease's end. Whoever wakes and prolongs the lease in time puts the note behind it again.
    """
    unseen = (*lost, Unit.ready_at <= Unit.lease_until)
    ids = tx.execute(select(Unit.id).where(*unseen).limit(limit).with_for_update(skip_locked=True)).scalars().all()
    if ids:
        tx.execute(update(Unit).where(Unit.id.in_(ids), *unseen).values(ready_at=epoch_now() + seconds))
