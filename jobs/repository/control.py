"""Pausing and going on: one job, or the whole fleet.

A paused job's units are in the state `paused`, which no version of the worker claims. What a worker holds of them
loses its lease, as with `cancel`: the worker sees it within the bound that `worker.leases` names. The attempt is given
back, unless the lease had run out: then a worker was lost, and nobody knows whether the unit itself was to blame.
A paused fleet is one row that every claim reads; units stay as they are.
"""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import Connection, case, select, update
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models import Job, Unit
from jobs.models_fleet import Control
from jobs.orm import utcnow
from jobs.repository import shares
from jobs.repository.jobs import lock, lock_units, record_event

FLEET = "fleet"


def pause_job(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> int:
    """Let nothing more of a job be claimed, and take back what is being drawn. Returns how many units were paused;
    none where the job is paused already or finished.
    """
    lock(tx, tenant_id, job_id)
    mine = (Unit.tenant_id == tenant_id, Unit.job_id == job_id)
    # All of them before anything else: what is being claimed at this moment is leased when this returns.
    lock_units(tx, *mine, Unit.state.in_(("ready", "leased")))
    waiting = (*mine, Unit.state == "ready")
    paused = tx.execute(update(Unit).where(*waiting).values(state="paused")).rowcount
    paused += _take_back(tx, *mine)
    if paused:
        job = (Job.tenant_id == tenant_id, Job.id == job_id)
        tx.execute(update(Job).where(*job).values(paused_at=utcnow()))
        record_event(tx, tenant_id, "job.paused", job_id=job_id, data={"units": paused})
    return paused


def resume_job(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> int:
    """Let a paused job go on where it stood in the queue. Returns how many units wait again."""
    lock(tx, tenant_id, job_id)
    mine = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state == "paused")
    resumed = tx.execute(update(Unit).where(*mine).values(state="ready", message_sent_at=None)).rowcount
    job = (Job.tenant_id == tenant_id, Job.id == job_id, Job.paused_at.is_not(None))
    if tx.execute(update(Job).where(*job).values(paused_at=None)).rowcount:
        record_event(tx, tenant_id, "job.resumed", job_id=job_id, data={"units": resumed})
    return resumed


def pause_fleet(tx: Connection) -> int:
    """Let no worker claim anything, and take back what is being drawn. Returns how many units were taken back."""
    row = tx.execute(select(Control.paused_at).where(Control.name == FLEET).with_for_update()).one()
    if row.paused_at is None:
        tx.execute(update(Control).where(Control.name == FLEET).values(paused_at=utcnow()))
    return _take_back(tx, to="ready")


def resume_fleet(tx: Connection) -> bool:
    """Let the workers claim again; False when the fleet was not paused."""
    paused = (Control.name == FLEET, Control.paused_at.is_not(None))
    return tx.execute(update(Control).where(*paused).values(paused_at=None)).rowcount == 1


def fleet_paused_at(tx: Connection) -> dt.datetime | None:
    """Since when the fleet has been paused; None when it is not."""
    return tx.execute(select(Control.paused_at).where(Control.name == FLEET)).scalar_one()


def may_claim(tx: Connection) -> bool:
    """Whether the fleet is not paused; it will not be before this transaction ends, so a pause misses no claim."""
    statement = select(Control.paused_at).where(Control.name == FLEET)
    return tx.execute(statement.with_for_update(read=True)).scalar_one() is None


def _take_back(tx: Connection, *which: ColumnElement[bool], to: str = "paused") -> int:
    """Take leased units out of their workers' hands, without counting the attempt. Returns how many."""
    held = select(Unit.tenant_id, Unit.id, Unit.profile).where(*which, Unit.state == "leased")
    rows = tx.execute(held.order_by(Unit.id).with_for_update()).all()
    alive = Unit.lease_until >= epoch_now()
    for start in range(0, len(rows), 500):
        part = [row.id for row in rows[start : start + 500]]
        tx.execute(
            update(Unit)
            .where(Unit.id.in_(part))
            .values(
                state=to,
                attempts=case((alive, Unit.attempts - 1), else_=Unit.attempts),
                lost_workers=case((alive, Unit.lost_workers), else_=Unit.lost_workers + 1),
                lease_token=Unit.lease_token + 1,
                lease_owner=None,
                lease_until=None,
                message_sent_at=None,
            )
        )
    shares.give_back(tx, shares.charged(tx, [(row.tenant_id, row.id, row.profile) for row in rows]))
    return len(rows)
