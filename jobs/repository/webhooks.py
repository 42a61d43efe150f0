"""Webhooks: where a tenant wants to be told of ends, and how each of these endpoints fares.

Whoever delivers leases an endpoint, not a delivery: so one endpoint is spoken to by one process at a time, and a slow
one holds up nobody else. While it does not answer, the whole endpoint waits, and is then tried with one delivery.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.database import epoch_now
from jobs.models import Tenant
from jobs.models_outside import Delivery, Webhook
from jobs.orm import new_id, utcnow


@dataclass(frozen=True)
class Endpoint:
    """A webhook in this process's hands."""

    tenant_id: str
    id: uuid.UUID
    url: str
    secret: str
    failures: int


_ENDPOINT = tuple(getattr(Webhook, name) for name in Endpoint.__dataclass_fields__)


def add(tx: Connection, tenant_id: str, *, url: str, secret: str, kinds: Sequence[str]) -> uuid.UUID:
    """Insert a webhook; a tenant that has no row yet is made."""
    upsert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    tx.execute(upsert(Tenant).values(id=tenant_id, created_at=utcnow()).on_conflict_do_nothing(index_elements=["id"]))
    webhook_id = new_id()
    row = {"tenant_id": tenant_id, "id": webhook_id, "url": url, "secret": secret, "kinds": list(kinds)}
    tx.execute(insert(Webhook).values(created_at=utcnow(), **row))
    return webhook_id


def every(tx: Connection, tenant_id: str) -> list[RowMapping]:
    """A tenant's webhooks in the order in which they were made, without their secrets; with how many deliveries wait,
    are done and have failed, as `waiting`, `done` and `failed`; and what kept the last message that it did not take, as
    `last_error`.
    """
    columns = [column for column in Webhook.__table__.c if column.name != "secret"]
    counts = [_count(state).label(state) for state in ("waiting", "done", "failed")]
    told = (*columns, *counts, last_error().label("last_error"))
    statement = select(*told).where(Webhook.tenant_id == tenant_id)
    return list(tx.execute(statement.order_by(Webhook.id)).mappings())


def _count(state: str) -> Any:
    mine = (Delivery.tenant_id == Webhook.tenant_id, Delivery.webhook_id == Webhook.id, Delivery.state == state)
    return select(func.count()).select_from(Delivery).where(*mine).correlate(Webhook).scalar_subquery()


def last_error() -> Any:
    """What kept the message that was tried last among those that wait for a webhook of the statement around this."""
    mine = (Delivery.tenant_id == Webhook.tenant_id, Delivery.webhook_id == Webhook.id, Delivery.state == "waiting")
    tried = select(Delivery.last_error).where(*mine, Delivery.last_error.is_not(None))
    return tried.order_by(Delivery.due_at.desc()).limit(1).correlate(Webhook).scalar_subquery()


def find(tx: Connection, tenant_id: str, webhook_id: uuid.UUID) -> Endpoint | None:
    """A webhook of this tenant."""
    mine = (Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    row = tx.execute(select(*_ENDPOINT).where(*mine)).one_or_none()
    return None if row is None else Endpoint(*row)


def wanting(tx: Connection, tenant_id: str, kind: str) -> list[uuid.UUID]:
    """The webhooks of a tenant that are to be told of this kind of event; none of them is removed before this
    transaction ends.
    """
    statement = select(Webhook.id, Webhook.kinds).where(Webhook.tenant_id == tenant_id, Webhook.disabled_at.is_(None))
    locked = statement.order_by(Webhook.id).with_for_update(read=True, key_share=True)
    return [row.id for row in tx.execute(locked) if kind in row.kinds]


def remove(tx: Connection, tenant_id: str, webhook_id: uuid.UUID) -> bool:
    """Remove a webhook and what it was told, or was to be; False where the tenant has none of this id."""
    # Locked first: whoever queues a delivery for it has done so, or finds it gone.
    mine = (Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    if tx.execute(select(Webhook.id).where(*mine).with_for_update()).one_or_none() is None:
        return False
    tx.execute(delete(Delivery).where(Delivery.tenant_id == tenant_id, Delivery.webhook_id == webhook_id))
    return tx.execute(delete(Webhook).where(*mine)).rowcount == 1


def enable(tx: Connection, tenant_id: str, webhook_id: uuid.UUID) -> bool:
    """Let a webhook be tried again at once, also one that was disabled; False where the tenant has none of this id."""
    fresh = {"disabled_at": None, "disabled_reason": None, "failures": 0, "failing_since": None, "retry_at": 0.0}
    mine = (Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    return tx.execute(update(Webhook).where(*mine).values(**fresh)).rowcount == 1


def _claimable() -> tuple[Any, ...]:
    """May be tried, is nobody's, and has something due."""
    has_due = (
        select(Delivery.id)
        .where(Delivery.tenant_id == Webhook.tenant_id, Delivery.webhook_id == Webhook.id)
        .where(Delivery.state == "waiting", Delivery.due_at <= epoch_now())
        .exists()
    )
    free = or_(Webhook.lease_until.is_(None), Webhook.lease_until < epoch_now())
    return (Webhook.disabled_at.is_(None), Webhook.retry_at <= epoch_now(), free, has_due)


def any_claimable(tx: Connection) -> bool:
    """Whether `claim` would find one; nothing is locked."""
    return tx.execute(select(Webhook.id).where(*_claimable()).limit(1)).one_or_none() is not None


def claim(tx: Connection, owner: str, *, lease_seconds: float) -> Endpoint | None:
    """Lease the endpoint that has waited longest among those that may be tried and have something due; None if there
    is none, or others hold them all.
    """
    wanted = select(*_ENDPOINT).where(*_claimable()).order_by(Webhook.served_at, Webhook.id).limit(1)
    first = wanted.with_for_update(skip_locked=True, key_share=True)
    row = tx.execute(first).one_or_none()
    if row is None:
        return None
    held = {"lease_owner": owner, "lease_until": epoch_now() + lease_seconds, "served_at": epoch_now()}
    mine = (Webhook.tenant_id == row.tenant_id, Webhook.id == row.id)
    tx.execute(update(Webhook).where(*mine).values(**held))
    return Endpoint(*row)


def _held(endpoint: Endpoint, owner: str) -> Any:
    return and_(
        Webhook.tenant_id == endpoint.tenant_id,
        Webhook.id == endpoint.id,
        Webhook.lease_owner == owner,
        Webhook.disabled_at.is_(None),
    )


def prolong(tx: Connection, endpoint: Endpoint, owner: str, *, lease_seconds: float) -> bool:
    """Hold an endpoint for longer; False where it is another's by now, or was disabled or removed."""
    statement = update(Webhook).where(_held(endpoint, owner)).values(lease_until=epoch_now() + lease_seconds)
    return tx.execute(statement).rowcount == 1


def release(tx: Connection, endpoint: Endpoint, owner: str) -> None:
    """Let others have it."""
    mine = (Webhook.tenant_id == endpoint.tenant_id, Webhook.id == endpoint.id, Webhook.lease_owner == owner)
    tx.execute(update(Webhook).where(*mine).values(lease_owner=None, lease_until=None))


def answered(tx: Connection, endpoint: Endpoint, owner: str) -> None:
    """Note that the endpoint takes what it is told."""
    was_failing = or_(Webhook.failures > 0, Webhook.failing_since.is_not(None))
    fresh = {"failures": 0, "failing_since": None, "retry_at": 0.0}
    tx.execute(update(Webhook).where(_held(endpoint, owner), was_failing).values(**fresh))


def failed(tx: Connection, endpoint: Endpoint, owner: str, *, after_seconds: float) -> float | None:
    """Let the whole endpoint wait so long; for how many seconds it has failed without a success between, None where it
    is not this owner's any more.
    """
    values = {
        "failures": Webhook.failures + 1,
        "retry_at": epoch_now() + after_seconds,
        "failing_since": func.coalesce(Webhook.failing_since, epoch_now()),
    }
    if tx.execute(update(Webhook).where(_held(endpoint, owner)).values(**values)).rowcount != 1:
        return None
    since = select(epoch_now() - Webhook.failing_since).where(
        Webhook.tenant_id == endpoint.tenant_id, Webhook.id == endpoint.id
    )
    return float(tx.execute(since).scalar_one())


def disable(tx: Connection, tenant_id: str, webhook_id: uuid.UUID, *, reason: str) -> None:
    """Tell an endpoint nothing more, until somebody enables it; what waits for it has failed with this reason."""
    mine = (Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    told = {"disabled_at": utcnow(), "disabled_reason": reason, "lease_owner": None, "lease_until": None}
    tx.execute(update(Webhook).where(*mine).values(**told))
    waiting = (Delivery.tenant_id == tenant_id, Delivery.webhook_id == webhook_id, Delivery.state == "waiting")
    tx.execute(update(Delivery).where(*waiting).values(state="failed", ended_at=utcnow(), last_error=reason))
