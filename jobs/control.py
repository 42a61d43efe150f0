"""Pausing jobs and the fleet, for Python callers and the command line."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import Connection

from jobs.reports import find_job, opened, wake
from jobs.repository import control as control_rows
from jobs.repository import fleet as fleet_rows
from jobs.repository import units as unit_rows
from jobs.settings import Settings


def pause(job: str | uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None) -> int:
    """Draw nothing more of a job until `resume`; finished pictures stay, and no attempt is counted.

    Returns how many units were paused; none where it was paused or finished already. Raises UnknownJob.
    """
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.transaction() as tx:
            return control_rows.pause_job(tx, row.tenant_id, row.id)


def resume(
    job: str | uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None
) -> tuple[int, list[str]]:
    """Let a paused job go on. Returns how many units wait again, and warnings. Raises UnknownJob."""
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.transaction() as tx:
            resumed = control_rows.resume_job(tx, row.tenant_id, row.id)
            first = unit_rows.first_ready(tx, row.tenant_id, row.id, limit=_enough(tx, chosen)) if resumed else []
        return resumed, wake(database, chosen, first)


def pause_fleet(*, settings: Settings | None = None) -> int:
    """Let no worker claim anything until `resume_fleet`. Returns how many units were taken back from workers."""
    with opened(settings) as (_, database), database.transaction() as tx:
        return control_rows.pause_fleet(tx)


def resume_fleet(*, settings: Settings | None = None) -> tuple[bool, list[str]]:
    """Let the workers claim again. Returns whether they had been paused, and warnings."""
    with opened(settings) as (chosen, database):
        with database.transaction() as tx:
            was_paused = control_rows.resume_fleet(tx)
            ids = unit_rows.unsent(tx, resend_seconds=0.0, limit=_enough(tx, chosen)) if was_paused else []
        return was_paused, wake(database, chosen, ids)


def fleet_paused_at(*, settings: Settings | None = None) -> dt.datetime | None:
    """Since when the fleet has been paused; None when it is not."""
    with opened(settings) as (_, database), database.reading() as tx:
        return control_rows.fleet_paused_at(tx)


def _enough(tx: Connection, settings: Settings) -> int:
    """How many messages wake a fleet: each worker that one reaches claims whatever waits."""
    return max(8, 2 * fleet_rows.alive(tx, within_seconds=settings.lease_seconds))
