"""Pausing jobs and the fleet, and draining workers, for Python callers and the command line."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable

from sqlalchemy import Connection

from jobs.errors import UnknownWorker
from jobs.reports import find_job, opened, wake
from jobs.repository import control as control_rows
from jobs.repository import drain as drain_rows
from jobs.repository import fleet as fleet_rows
from jobs.repository import units as unit_rows
from jobs.repository.drain import DrainingWorker
from jobs.settings import Settings

LOOK_AGAIN_SECONDS = 1.0
SEEN_WITHIN_SECONDS = 86_400.0


def pause(job: str | uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None) -> int:
    """Draw nothing more of a job until `resume`; finished pictures stay, and no attempt is counted.

    Returns how many units were paused; none where it was paused or finished already. Raises UnknownJob.
    """
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.transaction(row.tenant_id) as tx:
            return control_rows.pause_job(tx, row.tenant_id, row.id)


def resume(
    job: str | uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None
) -> tuple[int, list[str]]:
    """Let a paused job go on. Returns how many units wait again, and warnings. Raises UnknownJob."""
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.transaction(row.tenant_id) as tx:
            resumed = control_rows.resume_job(tx, row.tenant_id, row.id)
            first = unit_rows.first_ready(tx, row.tenant_id, row.id, limit=_enough(tx, chosen)) if resumed else []
        return resumed, wake(database, chosen, first, row.tenant_id)


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


def drain(
    worker: str | None,
    *,
    timeout_seconds: float,
    wait: Callable[[float], object] = time.sleep,
    settings: Settings | None = None,
) -> list[DrainingWorker]:
    """Ask a worker (by name; None for all that run) to drain, and wait until it has, `timeout_seconds` at most.

    Returns how far each one is. Raises UnknownWorker.
    """
    with opened(settings) as (chosen, database):
        ends_at = time.monotonic() + timeout_seconds
        with database.transaction() as tx:
            ids = _named(tx, worker)
            drain_rows.ask(tx, ids)
        while True:
            with database.reading() as tx:
                found = drain_rows.look(tx, ids)
            left = ends_at - time.monotonic()
            if left <= 0 or all(one.is_over or one.silent_seconds > chosen.lease_seconds for one in found):
                return found
            wait(min(LOOK_AGAIN_SECONDS, left))


def undo_drain(worker: str | None, *, settings: Settings | None = None) -> list[str]:
    """Let a worker (None: all that run) claim again. Returns their names. Raises UnknownWorker."""
    with opened(settings) as (_, database), database.transaction() as tx:
        ids = _named(tx, worker)
        drain_rows.undo(tx, ids)
        return [one.name for one in drain_rows.look(tx, ids)]


def _named(tx: Connection, worker: str | None) -> list[str]:
    ids = drain_rows.find(tx, worker, within_seconds=SEEN_WITHIN_SECONDS)
    if not ids:
        wanted = "worker" if worker is None else f"worker {worker!r}"
        raise UnknownWorker(
            f"no {wanted} runs here that gave a sign of life today; `portraits status --json` names them"
        )
    return ids
