"""Fair share: whose turn it is, and what each tenant has had of a profile's workers.

Start-time fair queueing: every tenant has a virtual time for each profile, the work that was claimed for it divided by
its weight, and the one with the least among those that wait is served next. Work is counted in standard pictures, of 30
steps at 1024 x 1024. The profile's clock is the virtual time of whoever was served last; a tenant that waited for
nothing meanwhile starts at the clock, so the time in which it asked for nothing earns it nothing.

Lock order everywhere: control row, job, units, renders, shares.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, Double, Select, case, cast, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.database import epoch_now
from jobs.models import Render, Share, Tenant, Unit

Charge = tuple[str, str, float]
"""Profile, tenant, and work in standard pictures."""
STANDARD_WORK = 30.0 * 1024 * 1024
"""Steps times pixels of a standard picture."""


def due(tx: Connection, profile: str) -> list[str]:
    """The tenants that have units of this profile that are due now, the one whose turn it is first.

    The walk jumps from tenant to tenant in the index: its cost grows with the tenants that wait, not with their units.
    """
    clock, rows = _clock(tx, profile), tx.execute(waiting_tenants(profile)).all()
    return [row.tenant_id for row in sorted(rows, key=lambda row: (max(row.virtual_time or 0.0, clock), row.tenant_id))]


def waiting_tenants(profile: str) -> Select[tuple[str, float]]:
    """The tenants that have units of this profile that are due now, each with its virtual time, if it has one.

    One whose units are all put off is left out: it could not take its turn, and the clock would stand still.
    """
    waiting = (Unit.profile == profile, Unit.state == "ready")
    first = select(func.min(Unit.tenant_id)).where(*waiting).scalar_subquery()
    walk = select(first.label("tenant_id")).cte("walk", recursive=True)
    after = select(func.min(Unit.tenant_id)).where(*waiting, Unit.tenant_id > walk.c.tenant_id).scalar_subquery()
    walk = walk.union_all(select(after).where(walk.c.tenant_id.is_not(None)))
    of_tenant = (Share.tenant_id == walk.c.tenant_id) & (Share.profile == profile)
    statement = select(walk.c.tenant_id, Share.virtual_time).outerjoin(Share, of_tenant)
    due = select(Unit.id).where(*waiting, Unit.tenant_id == walk.c.tenant_id, Unit.ready_at <= epoch_now())
    # In order, so that the index is walked: whether there is any, PostgreSQL would look up in the table from its start.
    first_due = due.order_by(Unit.sort_key, Unit.id).limit(1).scalar_subquery()
    return statement.where(walk.c.tenant_id.is_not(None), first_due.is_not(None))


def charge(tx: Connection, units: Sequence[tuple[str, uuid.UUID]], profile: str, *, in_turn: bool) -> None:
    """Count the open renders of these claimed units (tenant and id); `in_turn` moves the profile's clock."""
    clock = _clock(tx, profile)
    upsert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    for tenant_id, work in _work_of(tx, units):
        weight = tx.execute(select(Tenant.weight).where(Tenant.id == tenant_id)).scalar_one()
        start = case((Share.virtual_time > clock, Share.virtual_time), else_=clock)
        fresh = {"virtual_time": clock + work / weight, "served_at": clock if in_turn else 0.0}
        changed = {"virtual_time": start + work / weight, "served_at": start if in_turn else Share.served_at}
        statement = upsert(Share).values(tenant_id=tenant_id, profile=profile, **fresh)
        tx.execute(statement.on_conflict_do_update(index_elements=["tenant_id", "profile"], set_=changed))


def charged(tx: Connection, units: Sequence[tuple[str, uuid.UUID, str]]) -> list[Charge]:
    """What of these claimed units (tenant, id, profile) is not drawn yet, as it was charged; locks nothing."""
    found = []
    for profile in sorted({profile for *_, profile in units}):
        of_profile = [(tenant_id, unit_id) for tenant_id, unit_id, named in units if named == profile]
        found += [(profile, tenant_id, work) for tenant_id, work in _work_of(tx, of_profile)]
    return found


def give_back(tx: Connection, charges: Sequence[Charge]) -> None:
    """Take these charges off: the units were handed back for no fault of theirs.

    To be done when every unit is locked that will be: whoever claims locks a unit first, then its tenant's share.
    """
    for profile, tenant_id, work in charges:
        weight = tx.execute(select(Tenant.weight).where(Tenant.id == tenant_id)).scalar_one()
        mine = (Share.tenant_id == tenant_id, Share.profile == profile)
        tx.execute(update(Share).where(*mine).values(virtual_time=Share.virtual_time - work / weight))


def _clock(tx: Connection, profile: str) -> float:
    latest = select(Share.served_at).where(Share.profile == profile).order_by(Share.served_at.desc()).limit(1)
    return tx.execute(latest).scalar_one_or_none() or 0.0


def _work_of(tx: Connection, units: Sequence[tuple[str, uuid.UUID]]) -> list[tuple[str, float]]:
    """What waits in these units in standard pictures, by tenant; in one order, so that no two wait for each other."""
    by_tenant: dict[str, list[uuid.UUID]] = {}
    for tenant_id, unit_id in units:
        by_tenant.setdefault(tenant_id, []).append(unit_id)
    found = []
    for tenant_id, ids in sorted(by_tenant.items()):
        work = 0.0
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            asked = func.sum(cast(Render.steps, Double) * Render.width * Render.height)
            waiting = (Render.tenant_id == tenant_id, Render.unit_id.in_(part), Render.state == "waiting")
            work += tx.execute(select(asked).where(*waiting)).scalar_one() or 0.0
        found.append((tenant_id, work / STANDARD_WORK))
    return found
