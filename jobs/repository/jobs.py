"""Jobs: accepting them, finding them, stopping them; `jobs.repository.again` lets them go on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.sql import ColumnElement

from jobs.models import Event, Job, Render, Unit
from jobs.orm import new_id, utcnow
from jobs.repository import archive, shares

CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobRow:
    """A job as it was accepted."""

    tenant_id: str
    id: uuid.UUID
    key: str
    name: str | None
    content_hash: str
    profile: str
    priority: int
    identities_total: int
    units_total: int
    renders_total: int


_JOB = tuple(getattr(Job, name) for name in JobRow.__dataclass_fields__)


def _find(tx: Connection, *conditions: ColumnElement[bool]) -> JobRow | None:
    row = tx.execute(select(*_JOB).where(*conditions).order_by(Job.id.desc()).limit(1)).one_or_none()
    return JobRow(*row) if row else None


def find_by_key(tx: Connection, tenant_id: str, key: str) -> JobRow | None:
    """The job of this tenant under this idempotency key."""
    return _find(tx, Job.tenant_id == tenant_id, Job.key == key)


def find_by_id(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> JobRow | None:
    """The job of this tenant under this id."""
    return _find(tx, Job.tenant_id == tenant_id, Job.id == job_id)


def newest(tx: Connection, tenant_id: str) -> JobRow | None:
    """The job this tenant enqueued last."""
    return _find(tx, Job.tenant_id == tenant_id)


def add(
    tx: Connection,
    tenant_id: str,
    *,
    key: str,
    content_hash: str,
    name: str | None,
    profile: str,
    priority: int,
    traceparent: str | None = None,
) -> uuid.UUID:
    """Insert a job of a registered tenant that has no units yet; its totals follow with `accept`.

    `traceparent` is the W3C trace context of its enqueueing.
    """
    job_id = new_id()
    row = {"tenant_id": tenant_id, "id": job_id, "key": key, "content_hash": content_hash, "name": name}
    row |= {"profile": profile, "priority": priority, "created_at": utcnow(), "traceparent": traceparent}
    tx.execute(insert(Job).values(identities_total=0, units_total=0, renders_total=0, **row))
    return job_id


def traceparent_of(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> str | None:
    """The W3C trace context under which a job was enqueued; None where nobody traced."""
    statement = select(Job.traceparent).where(Job.tenant_id == tenant_id, Job.id == job_id)
    return tx.execute(statement).scalar_one_or_none()


def accept(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, identities: int, units: int, renders: int) -> None:
    """Write down how much the job asks for; the last statement of its transaction."""
    totals = {"identities_total": identities, "units_total": units, "renders_total": renders}
    tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(**totals))
    record_event(tx, tenant_id, "job.enqueued", job_id=job_id, data=totals)


def unit_ids(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, chunk: int = 1_000) -> Iterator[list[uuid.UUID]]:
    """The ids of a job's units that wait, in the order they were made, in chunks."""
    last: uuid.UUID | None = None
    while True:
        waits = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state == "ready")
        statement = select(Unit.id).where(*waits)
        if last is not None:
            statement = statement.where(Unit.id > last)
        ids = list(tx.execute(statement.order_by(Unit.id).limit(chunk)).scalars())
        if not ids:
            return
        yield ids
        last = ids[-1]


def lock(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> None:
    """Hold off every other change of this job until the transaction ends. Raises JobArchived."""
    tx.execute(select(Job.id).where(Job.tenant_id == tenant_id, Job.id == job_id).with_for_update())
    archive.refuse_archived(tx, tenant_id, job_id)


def lock_units(tx: Connection, *which: ColumnElement[bool]) -> None:
    """Wait for whoever changes these units at this moment, and hold off every other change of them.

    What a later statement of this transaction reads of them is so: a claim that was under way has become a lease.
    """
    locked = select(Unit.id).where(*which).order_by(Unit.id).with_for_update().subquery()
    tx.execute(select(func.count()).select_from(locked))


def cancel(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> int:
    """Stop a job: nothing of it is drawn any more, what is drawn stays. Returns how many renders were cancelled. A job
    that is over already stays as it ended.

    A worker in the middle of a batch loses its lease by this, and notices with its next heartbeat.
    """
    lock(tx, tenant_id, job_id)
    mine = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state.in_(("ready", "leased", "paused")))
    # Units first: their row locks hold off a worker that is about to claim one, or to record a render.
    lock_units(tx, *mine)
    held = select(Unit.tenant_id, Unit.id, Unit.profile).where(*mine, Unit.state == "leased")
    charges = shares.charged(tx, [(row.tenant_id, row.id, row.profile) for row in tx.execute(held)])
    tx.execute(
        update(Unit)
        .where(*mine)
        .values(
            state="cancelled",
            renders_cancelled=Unit.renders_total - Unit.renders_done - Unit.renders_failed,
            lease_token=Unit.lease_token + 1,
            lease_owner=None,
            lease_until=None,
            finished_at=utcnow(),
        )
    )
    waiting = (Render.tenant_id == tenant_id, Render.job_id == job_id, Render.state == "waiting")
    ended = {"state": "cancelled", "error_code": CANCELLED, "error": "cancelled by request", "finished_at": utcnow()}
    count = tx.execute(update(Render).where(*waiting).values(**ended)).rowcount
    if count:
        over = {"cancelled_at": utcnow(), "paused_at": None}
        tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(**over))
        record_event(tx, tenant_id, "job.cancelled", job_id=job_id, data={"renders": count})
    shares.give_back(tx, charges)
    return count


def record_event(
    tx: Connection,
    tenant_id: str,
    kind: str,
    *,
    job_id: uuid.UUID | None = None,
    unit_id: uuid.UUID | None = None,
    render_id: uuid.UUID | None = None,
    worker: str | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Note that something happened."""
    row = {"tenant_id": tenant_id, "id": new_id(), "at": utcnow(), "kind": kind, "data": data or {}}
    tx.execute(insert(Event).values(job_id=job_id, unit_id=unit_id, render_id=render_id, worker=worker, **row))
