"""Ends: units and jobs that are over, told once each to whoever waits for it.

A unit's end is told when its `told_at` is its `finished_at`. Nothing of a worker's way knows of it: workers settle
units as they always did, those of earlier versions too, and whoever tells finds the untold ones by an index of their
own. A job's end is told with the last of its units' ends, in one transaction: so it follows all of them, there is
one for each time that the job comes to an end, and a job that was retried is told of again.

Lock order: jobs before units, as everywhere. Nobody is waited for: what another one holds is told in the next turn.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, literal, select, tuple_, update
from sqlalchemy.sql import ColumnElement

from jobs.models import Identity, Job, Render, Unit
from jobs.repository import deliveries, galleries, queries
from jobs.repository.deliveries import JOB_ENDED, UNIT_ENDED, Ended
from jobs.repository.tenants import OPEN_STATES

CHUNK = 500
FINISHED = ("done", "failed", "partial", "cancelled")
Place = tuple[str, uuid.UUID]
"""A job's tenant and id."""


@dataclass(frozen=True)
class Told:
    """How many units' ends were told, and whether their job's was."""

    units: int = 0
    job: bool = False


def is_untold() -> ColumnElement[bool]:
    """Over, and told to nobody since."""
    return and_(Unit.finished_at.is_not(None), Unit.told_at.is_distinct_from(Unit.finished_at))


def next_job(tx: Connection, *, after: Place | None = None) -> Place | None:
    """The first job after this one that has units whose end is untold; it costs a step in an index, and no lock."""
    wanted = select(Unit.tenant_id, Unit.job_id).where(is_untold())
    if after is not None:
        last = (literal(after[0], Unit.tenant_id.type), literal(after[1], Unit.job_id.type))
        wanted = wanted.where(tuple_(Unit.tenant_id, Unit.job_id) > tuple_(*last))
    row = tx.execute(wanted.order_by(Unit.tenant_id, Unit.job_id).limit(1)).one_or_none()
    return None if row is None else (row.tenant_id, row.job_id)


def has_untold(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> bool:
    """Whether a job has units whose end is untold."""
    mine = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, is_untold())
    return tx.execute(select(Unit.id).where(*mine).limit(1)).one_or_none() is not None


def tell(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, limit: int = CHUNK) -> Told:
    """Tell so many of a job's untold ends, and the job's own with the last of them.

    To tell is to queue a delivery for each webhook of the tenant that wants it, and to make the job's gallery due.
    Nothing is told of a job that somebody else is changing at this moment.
    """
    job = (Job.tenant_id == tenant_id, Job.id == job_id)
    held = select(Job.id).where(*job).with_for_update(skip_locked=True, key_share=True)
    if tx.execute(held).one_or_none() is None:
        return Told()
    mine = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, is_untold())
    ids = list(tx.execute(select(Unit.id).where(*mine).limit(limit).with_for_update(skip_locked=True)).scalars())
    if not ids:
        return Told()
    these = (Unit.tenant_id == tenant_id, Unit.id.in_(ids))
    deliveries.add(tx, tenant_id, UNIT_ENDED, lambda: _unit_ends(tx, tenant_id, job_id, ids))
    tx.execute(update(Unit).where(*these).values(told_at=Unit.finished_at))
    return Told(len(ids), tell_job(tx, tenant_id, job_id))


def tell_job(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, again: bool = True) -> bool:
    """Tell that a job is over, if it is and every unit's end was told; the caller has locked the job.

    `again`: also where an end of it was told before.
    """
    still_open = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state.in_(OPEN_STATES))
    if has_untold(tx, tenant_id, job_id):
        return False
    if tx.execute(select(Unit.id).where(*still_open).limit(1)).one_or_none() is not None:
        return False
    found = queries.job(tx, tenant_id, job_id)
    job = (Job.tenant_id == tenant_id, Job.id == job_id)
    if found is None or found["state"] not in FINISHED:
        return False  # of its own counters it is not over; `portraits verify` says how
    if not again and tx.execute(select(Job.told_at).where(*job)).scalar_one() is not None:
        return False
    tx.execute(update(Job).where(*job).values(told_at=found["finished_at"]))
    deliveries.add(tx, tenant_id, JOB_ENDED, lambda: [_job_end(tx, tenant_id, dict(found))])
    galleries.make_due(tx, tenant_id, job_id)
    return True


def _job_end(tx: Connection, tenant_id: str, job: dict[str, Any]) -> Ended:
    """What a webhook is told of a job: counts and codes; no prompt, no photo, no address of a picture."""
    counted = ("identities", "units", "renders", "done", "failed", "cancelled")
    told = {"id": str(job["job_id"]), "key": job["key"], "name": job["name"], "state": job["state"]}
    told |= {name: int(job[name]) for name in counted} | {"finished_at": job["finished_at"].isoformat()}
    failures = {row["error_code"]: row["renders"] for row in queries.failures(tx, tenant_id, job["job_id"])}
    return Ended(job["finished_at"], {"tenant": tenant_id, "job": told, "failures": failures}, job["job_id"])


def _unit_ends(tx: Connection, tenant_id: str, job_id: uuid.UUID, unit_ids: Sequence[uuid.UUID]) -> Iterator[Ended]:
    """What a webhook is told of units: the caller's own name of the person, counts and codes."""
    key = tx.execute(select(Job.key).where(Job.tenant_id == tenant_id, Job.id == job_id)).scalar_one()
    of_person = and_(Identity.tenant_id == Unit.tenant_id, Identity.id == Unit.identity_id)
    units = select(Unit, Identity.external_id).join(Identity, of_person)
    failures = _failures(tx, tenant_id, unit_ids)
    for unit in tx.execute(units.where(Unit.tenant_id == tenant_id, Unit.id.in_(unit_ids)).order_by(Unit.id)):
        told = {"id": str(unit.id), "person": unit.external_id, "state": unit.state, "renders": unit.renders_total}
        told |= {name: getattr(unit, f"renders_{name}") for name in ("done", "failed", "cancelled")}
        told |= {"finished_at": unit.finished_at.isoformat()}
        job = {"id": str(job_id), "key": key}
        data = {"tenant": tenant_id, "job": job, "unit": told, "failures": failures.get(unit.id, {})}
        yield Ended(unit.finished_at, data, job_id, unit.id)


def _failures(tx: Connection, tenant_id: str, unit_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, int]]:
    """How many renders of each of these units failed with which code."""
    mine = (Render.tenant_id == tenant_id, Render.unit_id.in_(unit_ids), Render.state == "failed")
    by_code = select(Render.unit_id, Render.error_code, func.count().label("renders")).where(*mine)
    found: dict[uuid.UUID, dict[str, int]] = defaultdict(dict)
    for row in tx.execute(by_code.group_by(Render.unit_id, Render.error_code)):
        found[row.unit_id][row.error_code] = row.renders
    return found
