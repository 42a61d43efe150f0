"""`portraits watch`: a job's progress, live, until it is finished."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, JobOrNewest, Tenant, load_settings, of_tenant
from worker.cli.output import err, hint, out, print_json, say
from worker.cli.progress import Moment, follow, job_reader
from worker.cli.views import View, view_for

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from jobs.database import Database
    from jobs.reports import JobStatus
    from jobs.settings import Settings


def watch(
    job: JobOrNewest = None,
    tenant: Tenant = None,
    interval: Annotated[float, typer.Option("--interval", min=0.05, help="Seconds between two looks.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Follow a job until it is finished; interrupting it leaves the job alone.

    Exit code 0 when every picture is done, 1 when some failed or were cancelled. With --json, progress goes to stderr
    and the finished job to stdout, as `status JOB --json` gives it.
    """
    from jobs.database import Database
    from jobs.reports import find_job

    settings = load_settings()
    database = Database.from_settings(settings)
    try:
        row = find_job(database, tenant or settings.tenant, job)
        code = _watch(database, settings, row.tenant_id, row.id, interval, as_json=as_json)
    finally:
        database.dispose()
    if code:
        raise typer.Exit(code)


def _watch(
    database: Database, settings: Settings, tenant: str, job_id: uuid.UUID, interval: float, *, as_json: bool
) -> Exit:
    from jobs.reports import status

    console = err() if as_json else out()
    read = job_reader(database, settings, tenant, job_id)
    try:
        with view_for(console) as view:
            for moment in follow(read, threading.Event().wait, interval):
                view.show(moment)
            found = _patiently(lambda: status(job_id, tenant=tenant, settings=settings), view, interval)
    except KeyboardInterrupt:
        again = f"portraits watch {job_id}{of_tenant(tenant, settings)}"
        hint(f"the job goes on without you; `{again}` shows it again")
        return Exit.INTERRUPTED
    if as_json:
        print_json(asdict(found))
    else:
        ended = ", ".join(f"{found.job[name]} {name}" for name in ("done", "failed", "cancelled") if found.job[name])
        say(f"{found.job['state']}: {ended}", "" if found.job["state"] == "done" else "yellow")
        for failure in found.failures:
            hint(f"  {failure['renders']} x {failure['error_code']}: {failure['example'] or ''}")
    return Exit.OK if found.job["state"] == "done" else Exit.PROBLEM


def _patiently(read: Callable[[], JobStatus], view: View, interval: float) -> JobStatus:
    """How the job has ended, as soon as the database says it."""
    from jobs.errors import DatabaseUnavailable

    while True:
        try:
            return read()
        except DatabaseUnavailable as error:
            view.show(Moment(None, trouble=str(error)))
        threading.Event().wait(interval)
