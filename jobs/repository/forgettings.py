"""What is still to be dropped after erasures: by workers from memory and disk, by whoever clears up from the store.

`at` rises with every commit: whoever adds a row first takes the lock of one row, and holds it until it commits. So a
worker that has obeyed up to some `at` has seen every row up to there.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update

from jobs.database import epoch_now
from jobs.models_fleet import Leader, Worker
from jobs.models_outside import Forgetting
from jobs.orm import new_id
from jobs.repository import fleet
from jobs.repository.parts import parts

OFFICE = "forgettings"
TICK_SECONDS = 0.001
SILENT_SECONDS = 86_400.0
"""A worker that has been silent for so long is not waited for; its memory went with it."""
LATE_SECONDS = 900.0
"""So long after an erasure an object may yet be stored by a worker that has heard of it while it was storing."""
KEPT_SECONDS = 30 * 86_400.0
KEYS_IN_ROW = 1_000


@dataclass(frozen=True)
class ForgettingRow:
    """One row: what to drop, and what of the store is left to go."""

    id: uuid.UUID
    at: float
    tenant: str
    names: dict[str, Any]
    keys: list[str] | None
    prefixes: list[str]


@dataclass(frozen=True)
class Dropping:
    """What every worker drops: weight sets by fingerprint and units by id, in `names`."""

    at: float
    names: dict[str, Any]


_COLUMNS = tuple(getattr(Forgetting, name) for name in ForgettingRow.__dataclass_fields__)


def add(
    tx: Connection,
    tenant: str,
    *,
    weight_sets: Iterable[str] = (),
    units: Iterable[uuid.UUID] = (),
    folders: Iterable[str] = (),
    galleries: Mapping[uuid.UUID, int] | None = None,
    keys: Iterable[str] = (),
    prefixes: Iterable[str] = (),
) -> list[uuid.UUID]:
    """Note what is to be dropped, in rows of bounded size; the last statement of an erasure. Returns their ids."""
    named = [("weight_sets", one) for one in weight_sets] + [("units", str(one)) for one in units]
    named += [("folders", one) for one in folders]
    named += [("galleries", f"{job} {token}") for job, token in (galleries or {}).items()]
    columns = ("names", named), ("keys", list(keys)), ("prefixes", list(prefixes))
    rows: list[dict[str, Any]] = []
    for column, values in columns:
        for number, some in enumerate(parts(values, KEYS_IN_ROW)):
            if number == len(rows):
                rows.append({"id": new_id(), "tenant": tenant, "names": [], "keys": [], "prefixes": []})
            rows[number][column] = some
    rows = rows or [{"id": new_id(), "tenant": tenant, "names": [], "keys": [], "prefixes": []}]
    at = _moment(tx)
    for row in rows:
        row["names"] = {kind: [one for name, one in row["names"] if name == kind] for kind, _ in row["names"]}
        row["at"] = at
    tx.execute(insert(Forgetting), rows)
    return [row["id"] for row in rows]


def _moment(tx: Connection) -> float:
    """A moment after that of every row that is committed, or will be before this transaction is."""
    fleet.elect(tx, OFFICE, OFFICE, seconds=0.0)  # makes the row, and locks it
    mine = Leader.name == OFFICE
    last = tx.execute(select(func.coalesce(func.max(Forgetting.at), 0.0))).scalar_one()
    now: float = tx.execute(select(epoch_now())).scalar_one()
    at = max(now, last + TICK_SECONDS)
    tx.execute(update(Leader).where(mine).values(owner=OFFICE, until=at))
    return at


def newest(tx: Connection) -> float:
    """Up to when there is something to be dropped; 0 where there is nothing."""
    found: float = tx.execute(select(func.coalesce(func.max(Forgetting.at), 0.0))).scalar_one()
    return found


def newer(tx: Connection, after: float, *, limit: int = 100) -> list[Dropping]:
    """What was to be dropped since, the oldest first; rows of one moment are never parted."""
    columns = (Forgetting.at, Forgetting.names)
    statement = select(*columns).where(Forgetting.at > after).order_by(Forgetting.at)
    rows = [Dropping(*row) for row in tx.execute(statement.limit(limit))]
    if len(rows) < limit:
        return rows
    same = select(*columns).where(Forgetting.at == rows[-1].at)
    return [row for row in rows if row.at != rows[-1].at] + [Dropping(*row) for row in tx.execute(same)]


def obeyed(tx: Connection, worker_id: str, until: float) -> None:
    """Note that a worker holds nothing any more of what was to be dropped until then."""
    less = or_(Worker.forgot_until.is_(None), Worker.forgot_until < until)
    tx.execute(update(Worker).where(Worker.id == worker_id, less).values(forgot_until=until))


def to_clear(
    tx: Connection, *, limit: int, ids: Iterable[uuid.UUID] | None = None, without: Collection[uuid.UUID] = ()
) -> list[ForgettingRow]:
    """Rows of which objects are left in the store, the oldest first; of `ids` alone if they are given."""
    statement = select(*_COLUMNS).where(Forgetting.keys.is_not(None)).order_by(Forgetting.at, Forgetting.id)
    if without:
        statement = statement.where(Forgetting.id.not_in(without))
    if ids is not None:
        statement = statement.where(Forgetting.id.in_(list(ids)))
    return [ForgettingRow(*row) for row in tx.execute(statement.limit(limit))]


def cleared(tx: Connection, forgetting_id: uuid.UUID) -> None:
    """Note that its objects are gone."""
    tx.execute(update(Forgetting).where(Forgetting.id == forgetting_id).values(keys=None))


def over(tx: Connection, *, limit: int, late_seconds: float = LATE_SECONDS) -> list[ForgettingRow]:
    """Rows that every living worker has obeyed, whose objects are gone, and after which nothing can come any more:
    nothing does so many seconds after an erasure.
    """
    living = and_(Worker.state != "stopped", Worker.last_seen_at > epoch_now() - SILENT_SECONDS)
    behind = exists().where(living, func.coalesce(Worker.forgot_until, 0.0) < Forgetting.at)
    obeyed_by_all = and_(~behind, Forgetting.at < epoch_now() - late_seconds)
    is_old = Forgetting.at < epoch_now() - KEPT_SECONDS
    statement = select(*_COLUMNS).where(Forgetting.keys.is_(None), or_(obeyed_by_all, is_old))
    return [ForgettingRow(*row) for row in tx.execute(statement.order_by(Forgetting.at).limit(limit))]


def close(tx: Connection, forgetting_id: uuid.UUID) -> None:
    """Nothing is left to do about this one."""
    tx.execute(delete(Forgetting).where(Forgetting.id == forgetting_id))


def behind(tx: Connection) -> list[str]:
    """The names of the living workers that have not yet dropped everything."""
    newest = select(func.max(Forgetting.at)).scalar_subquery()
    living = (Worker.state != "stopped", Worker.last_seen_at > epoch_now() - SILENT_SECONDS)
    late = func.coalesce(Worker.forgot_until, 0.0) < newest
    return list(tx.execute(select(Worker.name).where(*living, late).order_by(Worker.name)).scalars())
