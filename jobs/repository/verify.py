"""Counting anew what counters say: statements that find where they differ, over the queue's tables and the archive's.

A counter and what it counts are written in one transaction, so each statement is right at any moment, also of a job
that is being drawn.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, or_, select, true, union_all, update
from sqlalchemy.sql import ColumnElement

from jobs.models import (
    ARCHIVED_CANDIDATES,
    ARCHIVED_RENDERS,
    ARCHIVED_UNITS,
    Candidate,
    Job,
    Render,
    Unit,
    WeightSet,
)
from jobs.repository.tenants import OPEN_STATES

COUNTED = ("done", "failed", "cancelled")
MOST = 1_000
"""How many differences of a kind are told at most."""
_UNITS: tuple[Any, ...] = (Unit.__table__, ARCHIVED_UNITS)
_RENDERS: tuple[Any, ...] = (Render.__table__, ARCHIVED_RENDERS)
_CANDIDATES: tuple[Any, ...] = (Candidate.__table__, ARCHIVED_CANDIDATES)


def jobs(tx: Connection, tenant_id: str, *, after: uuid.UUID | None = None, limit: int = 200) -> list[uuid.UUID]:
    """The ids of a tenant's next jobs."""
    statement = select(Job.id).where(Job.tenant_id == tenant_id).order_by(Job.id).limit(limit)
    return list(tx.execute(statement if after is None else statement.where(Job.id > after)).scalars())


def units(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> Sequence[Any]:
    """Units whose counters are not what their renders say: `id`, the counters, and `counted_...` beside them."""
    return tx.execute(union_all(*(_units(tenant_id, job_id, place) for place in (0, 1))).limit(MOST)).all()


def _units(tenant_id: str, job_id: uuid.UUID, place: int) -> Select[Any]:
    unit, render = _UNITS[place].c, _RENDERS[place].c
    sums = {name: func.sum(case((render.state == name, 1), else_=0)) for name in COUNTED}
    counted = (
        select(
            render.unit_id,
            func.count().label("total"),
            *(total.label(name) for name, total in sums.items()),
        )
        .where(render.tenant_id == tenant_id, render.job_id == job_id)
        .group_by(render.unit_id)
        .subquery()
    )
    names = ("total", *COUNTED)
    told = {name: func.coalesce(counted.c[name], 0) for name in names}
    return (
        select(
            unit.id,
            unit.state,
            *(unit[f"renders_{name}"] for name in names),
            *(value.label(f"counted_{name}") for name, value in told.items()),
        )
        .select_from(_UNITS[place])
        .outerjoin(counted, counted.c.unit_id == unit.id)
        .where(unit.tenant_id == tenant_id, unit.job_id == job_id)
        .where(or_(*(unit[f"renders_{name}"] != value for name, value in told.items())))
    )


def states(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> Sequence[Any]:
    """Units whose state does not go with what waits in them, or that are open in the archive, where nobody draws them:
    `id`, `state`, `waiting`.
    """
    return tx.execute(union_all(*(_states(tenant_id, job_id, place) for place in (0, 1))).limit(MOST)).all()


def _states(tenant_id: str, job_id: uuid.UUID, place: int) -> Select[Any]:
    unit = _UNITS[place].c
    waiting = unit.renders_total - unit.renders_done - unit.renders_failed - unit.renders_cancelled
    is_open = unit.state.in_(OPEN_STATES)
    wrong = or_(and_(~is_open, waiting != 0), and_(is_open, true() if place else waiting <= 0))
    mine = (unit.tenant_id == tenant_id, unit.job_id == job_id)
    return select(unit.id, unit.state, waiting.label("waiting")).where(*mine, wrong)


def chosen(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> Sequence[Any]:
    """Renders that are done without exactly one chosen candidate under their own key, or have one without being done:
    `id`, `state`, `storage_key`, `chosen`, `chosen_key`.
    """
    return tx.execute(union_all(*(_chosen(tenant_id, job_id, place) for place in (0, 1))).limit(MOST)).all()


def _chosen(tenant_id: str, job_id: uuid.UUID, place: int) -> Select[Any]:
    render, candidate = _RENDERS[place].c, _CANDIDATES[place].c
    of_render = and_(candidate.tenant_id == render.tenant_id, candidate.render_id == render.id, candidate.chosen)
    number, key = func.count(candidate.id), func.min(candidate.storage_key)
    is_done = render.state == "done"
    wrong = or_(and_(is_done, or_(number != 1, key != render.storage_key)), and_(~is_done, number != 0))
    return (
        select(render.id, render.state, render.storage_key, number.label("chosen"), key.label("chosen_key"))
        .select_from(_RENDERS[place])
        .outerjoin(_CANDIDATES[place], of_render)
        .where(render.tenant_id == tenant_id, render.job_id == job_id)
        .group_by(render.id, render.state, render.storage_key)
        .having(wrong)
    )


def totals(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> dict[str, tuple[int, int]]:
    """What a job's row counts and what was counted, by the counter's name. Empty for a job that is not there."""
    mine = (Job.tenant_id == tenant_id, Job.id == job_id)
    counters: tuple[str, ...] = ("units_total", "renders_total", "identities_total", "archived_units")
    counters += tuple(f"archived_{name}" for name in COUNTED)
    row = tx.execute(
        select(*(getattr(Job, name) for name in counters), *_counted(tenant_id, job_id)).where(*mine)
    ).one_or_none()
    return {} if row is None else {name: (getattr(row, name), getattr(row, f"counted_{name}")) for name in counters}


def _counted(tenant_id: str, job_id: uuid.UUID) -> list[Any]:
    """Scalar subqueries, so that all are of one moment."""

    def both(tables: Sequence[Any], what: ColumnElement[Any]) -> ColumnElement[Any]:
        parts = [
            select(func.count(what)).select_from(t).where(t.c.tenant_id == tenant_id, t.c.job_id == job_id)
            for t in tables
        ]
        return parts[0].scalar_subquery() + parts[1].scalar_subquery()

    kept = ARCHIVED_UNITS.c
    mine = (kept.tenant_id == tenant_id, kept.job_id == job_id)
    people = [
        select(t.c.identity_id).where(t.c.tenant_id == tenant_id, t.c.job_id == job_id).distinct() for t in _UNITS
    ]
    both_people = union_all(*people).subquery()
    return [
        both(_UNITS, func.now()).label("counted_units_total"),
        both(_RENDERS, func.now()).label("counted_renders_total"),
        select(func.count(func.distinct(both_people.c.identity_id)))
        .scalar_subquery()
        .label("counted_identities_total"),
        select(func.count()).select_from(ARCHIVED_UNITS).where(*mine).scalar_subquery().label("counted_archived_units"),
        *(
            select(func.coalesce(func.sum(kept[f"renders_{name}"]), 0))
            .where(*mine)
            .scalar_subquery()
            .label(f"counted_archived_{name}")
            for name in COUNTED
        ),
    ]


def weight_sets(tx: Connection, tenant_id: str) -> Sequence[Any]:
    """Weight sets that are ready without an object, or were generated without having been tried."""
    without = and_(WeightSet.state == "ready", or_(WeightSet.storage_key.is_(None), WeightSet.sha256.is_(None)))
    untried = and_(WeightSet.kind != "refined", WeightSet.generations > WeightSet.attempts)
    mine = (WeightSet.tenant_id == tenant_id, or_(without, untried))
    columns = (WeightSet.fingerprint, WeightSet.state, WeightSet.storage_key, WeightSet.generations, WeightSet.attempts)
    return tx.execute(select(*columns).where(*mine).limit(MOST)).all()


def lock_job(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> None:
    """Hold off every other change of this job, archived or not, until the transaction ends."""
    tx.execute(select(Job.id).where(Job.tenant_id == tenant_id, Job.id == job_id).with_for_update())


def correct(tx: Connection, tenant_id: str, unit_id: uuid.UUID) -> bool:
    """Set a settled unit's counters to what its renders say; False when it is not settled, or a render of it waits."""
    mine = (Unit.tenant_id == tenant_id, Unit.id == unit_id, Unit.state.not_in(OPEN_STATES))
    unit = tx.execute(select(Unit.state).where(*mine).with_for_update()).one_or_none()
    of_unit = (Render.tenant_id == tenant_id, Render.unit_id == unit_id)
    found = {
        row.state: row.renders
        for row in tx.execute(
            select(Render.state, func.count().label("renders")).where(*of_unit).group_by(Render.state)
        )
    }
    if unit is None or found.get("waiting"):
        return False
    counters = {f"renders_{name}": found.get(name, 0) for name in COUNTED}
    tx.execute(update(Unit).where(*mine).values(renders_total=sum(found.values()), **counters))
    return True
