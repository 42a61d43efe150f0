"""How much waits in the whole queue, for whoever watches or scales a fleet; no tenant, person or job is told.

Each statement walks an index over what is not over yet, so its cost follows the backlog and not what was ever drawn.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, case, func, select, text

from jobs.database import epoch_now
from jobs.models import Unit
from jobs.models_fleet import Worker
from jobs.models_outside import Delivery, Gallery

LONGEST_SECONDS = 5
"""How long one of these statements may take on PostgreSQL before the server ends it."""


def bound(tx: Connection) -> None:
    """Let no statement of this transaction burden the database for long; SQLite's readers hinder nobody."""
    if tx.dialect.name == "postgresql":
        tx.execute(text(f"SET LOCAL statement_timeout = {1000 * LONGEST_SECONDS}"))


def open_units() -> Select[Any]:
    """Units that are not over, and their open pictures, by profile and state; `oldest` is when the first became due.

    Besides the states of a row: `put off`, ready but not due yet; `expired`, leased by a worker that fell silent.
    """
    now = select(epoch_now()).scalar_subquery()  # once, and not for each of a million rows
    state = case(
        (and_(Unit.state == "ready", Unit.ready_at > now), "put off"),
        (and_(Unit.state == "leased", Unit.lease_until < now), "expired"),
        else_=Unit.state,
    ).label("state")
    pictures = Unit.renders_total - Unit.renders_done - Unit.renders_failed - Unit.renders_cancelled
    return (
        select(
            Unit.profile,
            state,
            func.count().label("units"),
            func.sum(pictures).label("pictures"),
            (now - func.min(Unit.ready_at)).label("oldest_seconds"),
        )
        .where(Unit.state.in_(("ready", "leased", "paused")))
        .group_by(Unit.profile, state)
    )


def units(tx: Connection) -> list[RowMapping]:
    """What `open_units` finds."""
    return list(tx.execute(open_units()).mappings())


def workers(tx: Connection, *, within_seconds: float = 3600.0) -> dict[str, int]:
    """How many workers gave a sign of life within the last hour, by state; at work but not for a while: `silent`."""
    at_work = Worker.state.in_(("working", "starting"))
    silent = and_(at_work, Worker.last_seen_at < epoch_now() - 300.0)
    state = case((silent, "silent"), else_=Worker.state).label("state")
    recent = (Worker.last_seen_at > epoch_now() - within_seconds, Worker.state != "stopped")
    rows = tx.execute(select(state, func.count()).where(*recent).group_by(state))
    return {row[0]: row[1] for row in rows}


def deliveries(tx: Connection) -> tuple[dict[str, int], float]:
    """Webhook deliveries that wait, are `retrying`, or were given up; and for how long the oldest is overdue."""
    state = case((and_(Delivery.state == "waiting", Delivery.attempts > 0), "retrying"), else_=Delivery.state)
    named = state.label("state")
    asked = select(named, func.count().label("deliveries"), func.min(Delivery.due_at).label("due_at"))
    rows = tx.execute(asked.where(Delivery.state.in_(("waiting", "failed"))).group_by(named)).all()
    now = tx.execute(select(epoch_now())).scalar_one()
    overdue = [now - row.due_at for row in rows if row.state != "failed"]
    return {row.state: row.deliveries for row in rows}, max([0.0, *overdue])


def galleries_due(tx: Connection) -> int:
    """Galleries that are to be made now."""
    statement = select(func.count()).select_from(Gallery).where(Gallery.due_at <= epoch_now())
    return tx.execute(statement).scalar_one()
