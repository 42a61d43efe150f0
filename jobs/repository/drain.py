"""Draining workers: they finish their batch, hand back the rest, claim nothing more, and say `drained` in their row.

A worker marks itself busy before it may claim; asking it to drain and that mark are updates of one row, so either the
worker sees that it was asked, or it is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, or_, select, update

from jobs.database import epoch_now
from jobs.models_fleet import Worker

DRAINED = "drained"


@dataclass(frozen=True)
class DrainingWorker:
    """How far a worker is; `understands` is False for one of a version that knows no draining."""

    id: str
    name: str
    state: str
    understands: bool
    silent_seconds: float

    @property
    def is_over(self) -> bool:
        """Whether it claims nothing more."""
        return self.state in {DRAINED, "stopped"}


def begin_work(tx: Connection, worker_id: str) -> bool:
    """Say that this worker is at work from now on; False, and nothing to be claimed, when it was asked to drain."""
    mine = Worker.id == worker_id
    free = update(Worker).where(mine, Worker.drain_requested_at.is_(None)).values(busy=True)
    if tx.execute(free).rowcount or not is_asked(tx, worker_id):
        return True
    tx.execute(update(Worker).where(mine).values(busy=False, state=DRAINED, last_seen_at=epoch_now()))
    return False


def end_work(tx: Connection, worker_id: str) -> None:
    """Say that this worker holds nothing any more; it is drained if it was asked to."""
    state = case((Worker.drain_requested_at.is_not(None), DRAINED), else_=Worker.state)
    tx.execute(update(Worker).where(Worker.id == worker_id).values(busy=False, state=state))


def is_asked(tx: Connection, worker_id: str) -> bool:
    """Whether this worker was asked to drain."""
    asked = select(Worker.drain_requested_at).where(Worker.id == worker_id)
    return tx.execute(asked).scalar_one_or_none() is not None


def find(tx: Connection, name: str | None, *, within_seconds: float) -> list[str]:
    """The ids of the running workers that `name` means: an id, a name as `status` shows it, the name under which its
    drawing process signs shifts and pictures, or a machine with all of its workers; None means every one.
    """
    statement = select(Worker.id).where(Worker.state != "stopped", Worker.last_seen_at > epoch_now() - within_seconds)
    if name is not None:
        of_machine = Worker.name.startswith(f"{name[:40]}:", autoescape=True)
        named = [Worker.id == name, Worker.name == name, of_machine]
        machine, _, pid = name.rpartition(":")
        if machine and pid.isdecimal() and len(pid) < 10:
            named.append(and_(Worker.name.startswith(f"{machine}:", autoescape=True), Worker.pid == int(pid)))
        statement = statement.where(or_(*named))
    return list(tx.execute(statement.order_by(Worker.id)).scalars())


def ask(tx: Connection, worker_ids: list[str]) -> None:
    """Ask these workers to drain; those that are not at work are drained by that. Asking again changes nothing."""
    drain = case((Worker.drain_requested_at.is_(None), epoch_now()), else_=Worker.drain_requested_at)
    state = case((Worker.busy.is_(False), DRAINED), else_=Worker.state)
    known = (Worker.id.in_(worker_ids), Worker.state != "stopped")
    tx.execute(update(Worker).where(*known).values(drain_requested_at=drain, state=state))


def undo(tx: Connection, worker_ids: list[str]) -> None:
    """Let these workers claim again."""
    state = case((Worker.state == DRAINED, "idle"), else_=Worker.state)
    tx.execute(update(Worker).where(Worker.id.in_(worker_ids)).values(drain_requested_at=None, state=state))


def look(tx: Connection, worker_ids: list[str]) -> list[DrainingWorker]:
    """How far these workers are."""
    silent = epoch_now() - Worker.last_seen_at
    columns = (Worker.id, Worker.name, Worker.state, Worker.busy.is_not(None).label("understands"), silent)
    rows = tx.execute(select(*columns).where(Worker.id.in_(worker_ids)).order_by(Worker.name, Worker.id))
    return [DrainingWorker(*row) for row in rows]
