"""Deliveries: what is to be told to a webhook, until it was told or given up.

A row is written in the transaction that marks an end as told, so each webhook has one row for each end; its id is the
message's id at each try, by which the receiver knows a second one.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, tuple_, update

from jobs.database import epoch_now
from jobs.models_outside import Delivery
from jobs.orm import new_id, utcnow
from jobs.repository import webhooks

JOB_ENDED, UNIT_ENDED, PING = "job.ended", "unit.ended", "ping"
KINDS = (JOB_ENDED, UNIT_ENDED)
KEPT_DAYS = 30
ENDS_AT_ONCE = 500
PING_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """Something that ended: when, what is told of it, and the rows that it is about."""

    at: dt.datetime
    data: dict[str, Any]
    job_id: uuid.UUID | None = None
    unit_id: uuid.UUID | None = None


@dataclass(frozen=True)
class Due:
    """A delivery that is to be tried now."""

    id: uuid.UUID
    kind: str
    payload: dict[str, Any]
    attempts: int
    age_seconds: float


def add(tx: Connection, tenant_id: str, kind: str, ended: Callable[[], Iterable[Ended]]) -> int:
    """Queue what ended for every webhook of the tenant that wants this kind; nothing is read where none does."""
    wanting = webhooks.wanting(tx, tenant_id, kind)
    rest = iter(ended()) if wanting else iter(())
    count = 0
    while chunk := list(islice(rest, ENDS_AT_ONCE)):
        now = tx.execute(select(epoch_now())).scalar_one()
        rows = [_row(tenant_id, webhook_id, kind, told, now) for told in chunk for webhook_id in wanting]
        tx.execute(insert(Delivery), rows)
        count += len(rows)
    return count


def _row(tenant_id: str, webhook_id: uuid.UUID, kind: str, told: Ended, now: float) -> dict[str, Any]:
    payload = {"type": kind, "timestamp": told.at.isoformat(), "data": told.data}
    row = {"tenant_id": tenant_id, "id": new_id(), "webhook_id": webhook_id, "kind": kind, "payload": payload}
    row |= {"job_id": told.job_id, "unit_id": told.unit_id, "created_at": utcnow()}
    return {**row, "state": "waiting", "due_at": now, "attempts": 0}


def ping(tx: Connection, tenant_id: str, webhook_id: uuid.UUID) -> Due:
    """Queue a message without content that the caller sends at once: a clerk would take it up later."""
    later = tx.execute(select(epoch_now() + PING_SECONDS)).scalar_one()
    row = _row(tenant_id, webhook_id, PING, Ended(utcnow(), {"tenant": tenant_id}), later)
    tx.execute(insert(Delivery).values(**row))
    return Due(row["id"], PING, row["payload"], 0, 0.0)


def any_due(tx: Connection) -> bool:
    """Whether anything is to be told now, to whomever; it costs a step in an index, and no lock."""
    due = (Delivery.state == "waiting", Delivery.due_at <= epoch_now())
    return tx.execute(select(Delivery.id).where(*due).limit(1)).one_or_none() is not None


def due(tx: Connection, tenant_id: str, webhook_id: uuid.UUID, *, limit: int) -> list[Due]:
    """What is to be told to a webhook now, the longest due first."""
    mine = (Delivery.tenant_id == tenant_id, Delivery.webhook_id == webhook_id, Delivery.state == "waiting")
    statement = select(*_DUE).where(*mine, Delivery.due_at <= epoch_now())
    return [_due(row) for row in tx.execute(statement.order_by(Delivery.due_at, Delivery.id).limit(limit))]


def waits(tx: Connection, tenant_id: str, delivery_id: uuid.UUID) -> bool:
    """Whether it is still to be told: it is not once whoever it is about was forgotten."""
    mine = (Delivery.tenant_id == tenant_id, Delivery.id == delivery_id, Delivery.state == "waiting")
    return tx.execute(select(Delivery.id).where(*mine)).one_or_none() is not None


_DUE = (Delivery.id, Delivery.kind, Delivery.payload, Delivery.attempts, Delivery.created_at)


def _due(row: Any) -> Due:
    return Due(row.id, row.kind, row.payload, row.attempts, (utcnow() - row.created_at).total_seconds())


def done(tx: Connection, tenant_id: str, taken: Mapping[uuid.UUID, int]) -> None:
    """Note that the receiver has taken these, with the status that it answered each with."""
    for status in sorted(set(taken.values())):
        ids = [delivery_id for delivery_id, found in taken.items() if found == status]
        told = {"state": "done", "last_status": status, "last_error": None, "ended_at": utcnow()}
        _note(tx, tenant_id, *ids, attempts=Delivery.attempts + 1, **told)


def again(
    tx: Connection, tenant_id: str, delivery_id: uuid.UUID, *, after_seconds: float, status: int | None, error: str
) -> None:
    """Try it again so much later."""
    told = {"due_at": epoch_now() + after_seconds, "last_status": status, "last_error": error}
    _note(tx, tenant_id, delivery_id, attempts=Delivery.attempts + 1, **told)


def give_up(tx: Connection, tenant_id: str, delivery_id: uuid.UUID, *, status: int | None, error: str) -> None:
    """Try it no more."""
    told = {"state": "failed", "last_status": status, "last_error": error, "ended_at": utcnow()}
    _note(tx, tenant_id, delivery_id, attempts=Delivery.attempts + 1, **told)


def _note(tx: Connection, tenant_id: str, *ids: uuid.UUID, **values: Any) -> None:
    mine = (Delivery.tenant_id == tenant_id, Delivery.id.in_(ids), Delivery.state == "waiting")
    tx.execute(update(Delivery).where(*mine).values(**values))


def latest(tx: Connection, tenant_id: str, webhook_id: uuid.UUID | None, *, limit: int) -> list[RowMapping]:
    """The newest deliveries of a webhook, or of all of a tenant's; without what they tell."""
    columns = [column for column in Delivery.__table__.c if column.name != "payload"]
    statement = select(*columns).where(Delivery.tenant_id == tenant_id)
    if webhook_id is not None:
        statement = statement.where(Delivery.webhook_id == webhook_id)
    return list(tx.execute(statement.order_by(Delivery.id.desc()).limit(limit)).mappings())


def retry(tx: Connection, tenant_id: str, webhook_id: uuid.UUID) -> int:
    """Let a webhook's deliveries wait again that failed or are waited with; how many. Their days begin anew."""
    mine = (
        Delivery.tenant_id == tenant_id,
        Delivery.webhook_id == webhook_id,
        Delivery.state.in_(("waiting", "failed")),
    )
    fresh = {"state": "waiting", "due_at": epoch_now(), "attempts": 0, "ended_at": None, "created_at": utcnow()}
    return tx.execute(update(Delivery).where(*mine).values(**fresh)).rowcount


def any_old(tx: Connection) -> bool:
    """Whether a delivery ended so long ago that nobody asks for it any more; by when it was due last."""
    return tx.execute(select(Delivery.id).where(*_old()).limit(1)).one_or_none() is not None


def drop_old(tx: Connection, *, limit: int) -> int:
    """Remove so many deliveries, at most, that ended long ago; how many."""
    keys = (Delivery.tenant_id, Delivery.id)
    some = select(*keys).where(*_old()).limit(limit)
    return tx.execute(delete(Delivery).where(tuple_(*keys).in_(some))).rowcount


def _old() -> tuple[Any, ...]:
    before = epoch_now() - KEPT_DAYS * 86_400.0
    return (Delivery.state.in_(("done", "failed")), Delivery.due_at < before)
