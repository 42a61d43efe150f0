"""The workers' signs of life, their shifts, and the election of the one that reaps."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection, case, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.database import epoch_now
from jobs.models_fleet import Leader, Shift, Worker
from jobs.orm import new_id, utcnow
from jobs.repository.drain import DRAINED

SHIFTS_KEPT = dt.timedelta(days=90)


def sign_of_life(
    tx: Connection,
    worker_id: str,
    *,
    name: str,
    pid: int,
    version: str,
    state: str,
    profile: str | None = None,
    device: str | None = None,
    error: str | None = None,
    busy: bool = False,
    drawing_share: float | None = None,
) -> None:
    """Note that this worker lives, what it holds and what it does: starting, idle, working,
    unfit (with the reason in `error`) or stopped. One that was asked to drain is drained when it is not `busy`.
    `pid` is that of the process that says so: see `child_died`. `drawing_share` is the part of the last minutes in
    which its device drew, None where it is at no shift.
    """
    upsert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    changing: dict[str, Any] = {
        "state": state,
        "profile": profile,
        "device": device,
        "error": error,
        "last_seen_at": epoch_now(),
        "pid": pid,
        "busy": busy,
        "drawing_share": drawing_share,
    }
    statement = upsert(Worker).values(id=worker_id, name=name, version=version, started_at=utcnow(), **changing)
    if not busy and state != "stopped":
        changing["state"] = case((Worker.drain_requested_at.is_not(None), DRAINED), else_=state)
    tx.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changing))


def seen(tx: Connection, worker_id: str, *, name: str, pid: int, version: str) -> None:
    """Note that this worker lives, without touching what it says it does; a new one is idle."""
    upsert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    row: dict[str, Any] = {
        "id": worker_id,
        "name": name,
        "pid": pid,
        "version": version,
        "state": "idle",
        "started_at": utcnow(),
    }
    row["busy"] = False
    statement = upsert(Worker).values(last_seen_at=epoch_now(), **row)
    tx.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"last_seen_at": epoch_now()}))


def process_of(tx: Connection, worker_id: str) -> int | None:
    """The process id of whoever said last what this worker does; None where nobody has."""
    return tx.execute(select(Worker.pid).where(Worker.id == worker_id)).scalar_one_or_none()


def child_died(tx: Connection, worker_id: str, *, pid: int, parent_pid: int) -> bool:
    """Note that the process that drew was killed: what it said of itself, busy or unfit, is not so any more.

    False when another one has said something since.
    """
    state = case((Worker.drain_requested_at.is_not(None), DRAINED), else_="idle")
    gone = {"state": state, "busy": False, "error": None, "profile": None, "device": None, "pid": parent_pid}
    gone |= {"drawing_share": None}
    mine = (Worker.id == worker_id, Worker.pid == pid, Worker.state != "stopped")
    return tx.execute(update(Worker).where(*mine).values(**gone)).rowcount == 1


def stopped(tx: Connection, worker_id: str) -> None:
    """Note that this worker has ended in good order."""
    tx.execute(update(Worker).where(Worker.id == worker_id).values(state="stopped", last_seen_at=epoch_now()))


def alive(tx: Connection, *, within_seconds: float) -> int:
    """How many workers gave a sign of life lately."""
    statement = (
        select(func.count())
        .select_from(Worker)
        .where(Worker.state != "stopped", Worker.last_seen_at > epoch_now() - within_seconds)
    )
    return tx.execute(statement).scalar_one()


def record_shift(tx: Connection, **row: Any) -> None:
    """Keep what one shift did, in the columns of `shifts`, and let go of those that ended long ago."""
    tx.execute(insert(Shift).values(id=new_id(), **row))
    tx.execute(delete(Shift).where(Shift.ended_at < utcnow() - SHIFTS_KEPT))


def elect(tx: Connection, name: str, owner: str, *, seconds: float) -> bool:
    """True when `owner` holds the office `name` for the next `seconds`."""
    insert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    tx.execute(insert(Leader).values(name=name, until=0.0).on_conflict_do_nothing(index_elements=["name"]))
    statement = (
        update(Leader)
        .where(Leader.name == name, or_(Leader.owner == owner, Leader.until < epoch_now()))
        .values(owner=owner, until=epoch_now() + seconds)
    )
    return tx.execute(statement).rowcount == 1


def step_down(tx: Connection, name: str, owner: str) -> None:
    """Leave the office at once, so that another need not wait for it to run out."""
    tx.execute(update(Leader).where(Leader.name == name, Leader.owner == owner).values(owner=None, until=0.0))
