"""Moving jobs that are over into the archive's tables and back, a few people at a time.

All of a person's units in a job go together with their renders, candidates and outputs in one transaction, however
many these are, and the job's sums with them: so every reader finds every row once, before, meanwhile and after, and
whoever is interrupted goes on where it stopped. The job's `archive_state` says that it is not to be changed: `retry`,
`rerun` and the like ask `refuse_archived` under its lock. A process of a version that knows no archive does not ask;
what it has opened on the way turns the job round.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, or_, select, update

from jobs.errors import JobArchived
from jobs.models import (
    ARCHIVED_CANDIDATES,
    ARCHIVED_EVENTS,
    ARCHIVED_OUTPUTS,
    ARCHIVED_RENDERS,
    ARCHIVED_UNITS,
    Candidate,
    Event,
    Job,
    Output,
    Render,
    Unit,
)
from jobs.orm import utcnow
from jobs.repository import queries
from jobs.repository.tenants import OPEN_STATES

FINISHED = ("done", "failed", "partial", "cancelled")
MOVING, ARCHIVED, RESTORING = "moving", "archived", "restoring"
_EVENTS_AT_ONCE = 1_000
_IDS_AT_ONCE = 500  # a statement has 65,535 parameters at most


def refuse_archived(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> None:
    """Raises JobArchived when something of the job lies in the archive. The caller has locked the job."""
    mine = (Job.tenant_id == tenant_id, Job.id == job_id, Job.archive_state.is_not(None))
    if tx.execute(select(Job.id).where(*mine)).one_or_none() is not None:
        raise JobArchived(
            f"job {job_id} lies in the archive, where nothing is changed; `portraits archive --restore {job_id}` "
            "brings it back"
        )


def refuse_archived_render(tx: Connection, tenant_id: str, render_id: uuid.UUID) -> None:
    """Raises JobArchived when this render lies in the archive."""
    table = ARCHIVED_RENDERS.c
    statement = select(table.job_id).where(table.tenant_id == tenant_id, table.id == render_id)
    job_id = tx.execute(statement).scalar_one_or_none()
    if job_id is not None:
        refuse_archived(tx, tenant_id, job_id)


def interrupted(tx: Connection, tenant_id: str) -> list[uuid.UUID]:
    """The jobs whose way into the archive or out of it was begun and is not at its end, the oldest first."""
    mine = (Job.tenant_id == tenant_id, Job.archive_state.in_((MOVING, RESTORING)))
    return list(tx.execute(select(Job.id).where(*mine).order_by(Job.id)).scalars())


def old(
    tx: Connection, tenant_id: str, before: dt.datetime, *, after: uuid.UUID | None = None, limit: int = 200
) -> list[uuid.UUID]:
    """The first jobs after this one that were made before a moment and of which nothing is archived.

    Found by their ids, which begin with their time.
    """
    until = uuid.UUID(int=max(int(before.timestamp() * 1000), 0) << 80)
    mine = (Job.tenant_id == tenant_id, Job.archive_state.is_(None), Job.id < until)
    statement = select(Job.id).where(*mine).order_by(Job.id).limit(limit)
    return list(tx.execute(statement if after is None else statement.where(Job.id > after)).scalars())


def begin(tx: Connection, tenant_id: str, job_id: uuid.UUID, before: dt.datetime) -> bool:
    """Hold a job for the archive; False when it has not been over since before this moment."""
    if _lock(tx, tenant_id, job_id) is not None:
        return False
    found = queries.job(tx, tenant_id, job_id)
    if found is None or found["state"] not in FINISHED or (found["finished_at"] or before) >= before:
        return False
    still_open = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state.in_(OPEN_STATES))
    if tx.execute(select(Unit.id).where(*still_open).limit(1)).one_or_none() is not None:
        return False  # its counters are wrong; `portraits verify` says how
    _set(tx, tenant_id, job_id, archive_state=MOVING, archived_at=utcnow())
    return True


def move(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, units: int) -> int | None:
    """Move so many units of a job that is on its way into the archive, and the rest of the last person's; how many
    renders went with them.

    None when nothing is left to move: the job lies in the archive now, or another process has ended this, or changed
    its way, or one of these units is open again, and so its way leads back.
    """
    if _lock(tx, tenant_id, job_id) != MOVING:
        return None
    ids = _first_units(tx, Unit.__table__, tenant_id, job_id, units)  # type: ignore[arg-type]
    if not ids:
        if _move_events(tx, Event.__table__, ARCHIVED_EVENTS, tenant_id, job_id):  # type: ignore[arg-type]
            return 0
        _set(tx, tenant_id, job_id, archive_state=ARCHIVED)
        return None
    if _any_open(tx, tenant_id, ids):
        _set(tx, tenant_id, job_id, archive_state=RESTORING)
        return None
    renders = _move_units(tx, _INTO, tenant_id, ids)
    _count(tx, tenant_id, job_id, ids, sign=1)
    return renders


def is_turning(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> bool:
    """Whether a job is on its way out of the archive."""
    mine = (Job.tenant_id == tenant_id, Job.id == job_id, Job.archive_state == RESTORING)
    return tx.execute(select(Job.id).where(*mine)).one_or_none() is not None


def begin_restore(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> bool:
    """Turn a job round that lies in the archive, or is on its way there; False when it does not."""
    if _lock(tx, tenant_id, job_id) is None:
        return False
    _set(tx, tenant_id, job_id, archive_state=RESTORING)
    return True


def move_back(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, units: int) -> int | None:
    """The same as `move`, out of the archive."""
    if _lock(tx, tenant_id, job_id) != RESTORING:
        return None
    ids = _first_units(tx, ARCHIVED_UNITS, tenant_id, job_id, units)
    if not ids:
        if _move_events(tx, ARCHIVED_EVENTS, Event.__table__, tenant_id, job_id):  # type: ignore[arg-type]
            return 0
        _set(tx, tenant_id, job_id, archive_state=None, archived_at=None, archived_finished_at=None)
        return None
    _count(tx, tenant_id, job_id, ids, sign=-1)
    return _move_units(tx, _OUT, tenant_id, ids)


def forget(
    tx: Connection, tenant_id: str, identity_id: uuid.UUID, photo_sets: Sequence[uuid.UUID] = ()
) -> tuple[list[str], list[uuid.UUID]]:
    """Erase what the archive has of a person, and of whoever is given by these photo sets: units, renders, candidates,
    outputs and what happened to them.

    To be called before the rows in the queue's tables go, in the same transaction. Returns the keys of the objects
    that its rows named, and the jobs that it was part of, whose totals drop by what goes here.
    """
    units = ARCHIVED_UNITS.c
    of_person = (
        units.tenant_id == tenant_id,
        or_(units.identity_id == identity_id, units.photo_set_id.in_(photo_sets)),
    )
    jobs = sorted(tx.execute(select(units.job_id).where(*of_person).distinct()).scalars())
    keys: list[str] = []
    for job_id in jobs:
        _lock(tx, tenant_id, job_id)
        rows = tx.execute(select(units.id, units.identity_id).where(*of_person, units.job_id == job_id)).all()
        ids = [row.id for row in rows]
        for part in _parts(ids):
            keys += _keys_of(tx, tenant_id, part)
            _count(tx, tenant_id, job_id, part, sign=-1)
            _drop(tx, tenant_id, job_id, part)
        for person in {row.identity_id for row in rows}:
            if not has_units(tx, tenant_id, job_id, person):
                _set(tx, tenant_id, job_id, identities_total=Job.identities_total - 1)
    return keys, jobs


def has_units(tx: Connection, tenant_id: str, job_id: uuid.UUID, identity_id: uuid.UUID) -> bool:
    """Whether a job has units of a person, archived or not."""
    tables: tuple[Table, ...] = (Unit.__table__, ARCHIVED_UNITS)  # type: ignore[assignment]
    mine = [(t.c.tenant_id == tenant_id, t.c.job_id == job_id, t.c.identity_id == identity_id) for t in tables]
    found = [select(t.c.id).where(*which).limit(1) for t, which in zip(tables, mine, strict=True)]
    return any(tx.execute(one).one_or_none() is not None for one in found)


def _keys_of(tx: Connection, tenant_id: str, ids: Sequence[uuid.UUID]) -> list[str]:
    """The objects that the renders, candidates and outputs of these archived units name, each once."""
    renders = ARCHIVED_RENDERS.c
    drawn = select(renders.id).where(renders.tenant_id == tenant_id, renders.unit_id.in_(ids))
    found: set[str | None] = set()
    for table in (ARCHIVED_RENDERS, ARCHIVED_CANDIDATES, ARCHIVED_OUTPUTS):
        column = table.c.id if table is ARCHIVED_RENDERS else table.c.render_id
        mine = (table.c.tenant_id == tenant_id, column.in_(drawn))
        found |= set(tx.execute(select(table.c.storage_key).where(*mine)).scalars())
    return sorted(key for key in found if key is not None)


def _drop(tx: Connection, tenant_id: str, job_id: uuid.UUID, ids: Sequence[uuid.UUID]) -> None:
    """Remove archived units, and with them what refers to them and what happened to them."""
    units, events = ARCHIVED_UNITS.c, ARCHIVED_EVENTS.c
    mine = (units.tenant_id == tenant_id, units.id.in_(ids))
    renders = tx.execute(select(func.sum(units.renders_total)).where(*mine)).scalar_one()
    totals = {"units_total": Job.units_total - len(ids), "renders_total": Job.renders_total - renders}
    _set(tx, tenant_id, job_id, **totals)
    of_job = (events.tenant_id == tenant_id, events.job_id == job_id, events.unit_id.in_(ids))
    tx.execute(delete(ARCHIVED_EVENTS).where(*of_job))
    tx.execute(delete(ARCHIVED_UNITS).where(*mine))


def _lock(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> str | None:
    """Hold off every other change of the job; its archive state."""
    mine = (Job.tenant_id == tenant_id, Job.id == job_id)
    state: str | None = tx.execute(select(Job.archive_state).where(*mine).with_for_update()).scalar_one_or_none()
    return state


def _set(tx: Connection, tenant_id: str, job_id: uuid.UUID, **values: Any) -> None:
    tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(**values))


def _first_units(tx: Connection, table: Table, tenant_id: str, job_id: uuid.UUID, limit: int) -> list[uuid.UUID]:
    """The units of a job's first people: so many, and the rest of the last person's."""
    mine = (table.c.tenant_id == tenant_id, table.c.job_id == job_id)
    first = select(table.c.identity_id).where(*mine).order_by(table.c.identity_id).limit(limit)
    people = set(tx.execute(first).scalars())
    return list(tx.execute(select(table.c.id).where(*mine, table.c.identity_id.in_(people))).scalars())


def _any_open(tx: Connection, tenant_id: str, ids: Sequence[uuid.UUID]) -> bool:
    """Lock these units; whether one of them is to be drawn."""
    found = False
    for part in _parts(sorted(ids)):
        mine = (Unit.tenant_id == tenant_id, Unit.id.in_(part))
        states = tx.execute(select(Unit.state).where(*mine).order_by(Unit.id).with_for_update()).scalars()
        found |= any(state in OPEN_STATES for state in states)
    return found


def _parts(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    return (ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE))


_LIVE: tuple[Any, ...] = (Unit.__table__, Render.__table__, Candidate.__table__, Output.__table__)
_KEPT = (ARCHIVED_UNITS, ARCHIVED_RENDERS, ARCHIVED_CANDIDATES, ARCHIVED_OUTPUTS)
_INTO, _OUT = (_LIVE, _KEPT), (_KEPT, _LIVE)


def _move_units(
    tx: Connection, way: tuple[Sequence[Table], Sequence[Table]], tenant_id: str, ids: Sequence[uuid.UUID]
) -> int:
    """Copy the rows of these units, those first that others refer to, then remove them in the other order."""
    return sum(_move_part(tx, way, tenant_id, part) for part in _parts(ids))


def _move_part(
    tx: Connection, way: tuple[Sequence[Table], Sequence[Table]], tenant_id: str, ids: Sequence[uuid.UUID]
) -> int:
    (units, renders, candidates, outputs), target = way
    of_units = (renders.c.tenant_id == tenant_id, renders.c.unit_id.in_(ids))
    drawn = select(renders.c.id).where(*of_units)
    chosen: dict[Table, tuple[Any, ...]] = {
        units: (units.c.tenant_id == tenant_id, units.c.id.in_(ids)),
        renders: of_units,
        candidates: (candidates.c.tenant_id == tenant_id, candidates.c.render_id.in_(drawn)),
        outputs: (outputs.c.tenant_id == tenant_id, outputs.c.render_id.in_(drawn)),
    }
    for source, kept in zip(chosen, target, strict=True):
        _copy(tx, source, kept, chosen[source])
    moved = 0
    for source in reversed(chosen):
        removed = tx.execute(delete(source).where(*chosen[source])).rowcount
        moved = removed if source is renders else moved
    return moved


def _copy(tx: Connection, source: Table, target: Table, which: Sequence[Any]) -> None:
    names = [column.name for column in target.columns]
    tx.execute(insert(target).from_select(names, select(*(source.c[name] for name in names)).where(*which)))


def _move_events(tx: Connection, source: Table, target: Table, tenant_id: str, job_id: uuid.UUID) -> int:
    mine = (source.c.tenant_id == tenant_id, source.c.job_id == job_id)
    ids = list(tx.execute(select(source.c.id).where(*mine).limit(_EVENTS_AT_ONCE)).scalars())
    which = (source.c.tenant_id == tenant_id, source.c.id.in_(ids))
    if ids:
        _copy(tx, source, target, which)
        tx.execute(delete(source).where(*which))
    return len(ids)


def _count(tx: Connection, tenant_id: str, job_id: uuid.UUID, ids: Sequence[uuid.UUID], *, sign: int) -> None:
    """Add what these archived units count to the job's sums, or take it off."""
    for part in _parts(ids):
        _count_part(tx, tenant_id, job_id, part, sign=sign)


def _count_part(tx: Connection, tenant_id: str, job_id: uuid.UUID, ids: Sequence[uuid.UUID], *, sign: int) -> None:
    table = ARCHIVED_UNITS.c
    sums = (func.sum(table.renders_done), func.sum(table.renders_failed), func.sum(table.renders_cancelled))
    found = tx.execute(
        select(func.count(), *sums, func.max(table.finished_at)).where(table.tenant_id == tenant_id, table.id.in_(ids))
    ).one()
    names = ("archived_units", "archived_done", "archived_failed", "archived_cancelled")
    added = {name: getattr(Job, name) + sign * count for name, count in zip(names, found[:4], strict=True)}
    mine = (Job.tenant_id == tenant_id, Job.id == job_id)
    tx.execute(update(Job).where(*mine).values(**added))
    later = or_(Job.archived_finished_at.is_(None), Job.archived_finished_at < found[4])
    if sign > 0:
        tx.execute(update(Job).where(*mine, later).values(archived_finished_at=found[4]))
