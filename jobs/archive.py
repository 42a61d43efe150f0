"""Archiving: jobs that are over leave the queue's tables, so that these stay small; their pictures stay where they are.

`status`, `results` and everything else that reads finds archived jobs as before; what changes a job refuses them until
they are restored. A job moves a few units at a time, in one transaction each; one person's units are never parted, so
only a person of very many pictures is waited for. A call that is interrupted is simply repeated.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from jobs.database import Database
from jobs.orm import utcnow
from jobs.reports import find_job, opened
from jobs.repository import archive as rows
from jobs.repository import ends
from jobs.repository import sweep as tenant_rows
from jobs.repository.sight import require_sight
from jobs.settings import Settings

UNITS_AT_ONCE = 16
MOST_SECONDS = 100 * 365.25 * 86_400  # no job is that old, and calendars go back no further than to the year 1


@dataclass
class Archived:
    """What was moved: whole jobs, and renders. `turned` jobs were brought back, since something of them is to be drawn
    again: a process of a version before the archive has asked for it on the way, or their restoring was interrupted.
    """

    jobs: int = 0
    renders: int = 0
    turned: list[uuid.UUID] = field(default_factory=list)


def archive(
    *,
    older_than_seconds: float,
    tenant: str | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
) -> Archived:
    """Move the jobs of a tenant, or of all, into the archive that have been over for so long; `limit` of them at most
    are touched.

    Those that an earlier call has begun come first, whatever their age. Raises SettingsInvalid for a login that does
    not see every tenant.
    """
    report, before = Archived(), utcnow() - dt.timedelta(seconds=min(older_than_seconds, MOST_SECONDS))
    with opened(settings) as (_, database):
        _require_sight(database)
        owners = _tenants(database, tenant)
        begun = ((owner, job_id) for owner in owners for job_id in _begun(database, owner, before))
        for owner, job_id in islice(begun, limit):  # which begins no job beyond the limit
            _move(database, owner, job_id, report)
    return report


def restore(job: str | uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None) -> Archived:
    """Bring a job back out of the archive. Raises UnknownJob, SettingsInvalid as `archive`."""
    with opened(settings) as (chosen, database):
        _require_sight(database)
        row = find_job(database, tenant or chosen.tenant, job)
        with database.transaction() as tx:
            if not rows.begin_restore(tx, row.tenant_id, row.id):
                return Archived()
        return Archived(1, _until_done(database, rows.move_back, row.tenant_id, row.id))


def _require_sight(database: Database) -> None:
    with database.reading() as tx:
        require_sight(tx)


def _tenants(database: Database, tenant: str | None) -> list[str]:
    if tenant is not None:
        return [tenant]
    with database.reading() as tx:
        return tenant_rows.tenants(tx)


def _begun(database: Database, tenant: str, before: dt.datetime) -> Iterator[uuid.UUID]:
    """The jobs of a tenant that are held for the archive, those first whose way was interrupted."""
    with database.reading() as tx:
        interrupted = rows.interrupted(tx, tenant)
    yield from interrupted
    last: uuid.UUID | None = None
    while True:
        with database.reading() as tx:
            ids = rows.old(tx, tenant, before, after=last)
        for job_id in ids:
            if not _tell_ends(database, tenant, job_id):
                continue
            with database.transaction() as tx:
                begun = rows.begin(tx, tenant, job_id, before)
            if begun:
                yield job_id
        if not ids:
            return
        last = ids[-1]


def _tell_ends(database: Database, tenant: str, job_id: uuid.UUID) -> bool:
    """Tell what nobody has told yet of a job: whoever tells of ends looks into the queue's tables alone.

    False where another one holds it at this moment: it is archived the next time.
    """
    while True:
        with database.reading() as tx:
            if not ends.has_untold(tx, tenant, job_id):
                return True
        with database.transaction() as tx:
            if not ends.tell(tx, tenant, job_id).units:
                return False


def _move(database: Database, tenant: str, job_id: uuid.UUID, report: Archived) -> None:
    """Move a job that is held for the archive, or is on its way out of it."""
    moved = _until_done(database, rows.move, tenant, job_id)
    with database.reading() as tx:
        turned = rows.is_turning(tx, tenant, job_id)
    if turned:
        _until_done(database, rows.move_back, tenant, job_id)
        report.turned.append(job_id)
    else:
        report.jobs += 1
        report.renders += moved


def _until_done(database: Database, move: Callable[..., int | None], tenant: str, job_id: uuid.UUID) -> int:
    """Move a few units at a time until none is left; how many renders were moved."""
    total = 0
    while True:
        with database.transaction() as tx:
            moved = move(tx, tenant, job_id, units=UNITS_AT_ONCE)
        if moved is None:
            return total
        total += moved
