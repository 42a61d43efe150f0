"""`portraits status`: how far jobs are."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.fleet import fleet, fleet_line, fleet_shifts
from worker.cli.options import AsJson, Tenant, load_settings, of_tenant, page_key
from worker.cli.output import ago, facts, hint, out, print_json, say, short, table

if TYPE_CHECKING:
    from jobs.reports import JobStatus
    from jobs.settings import Settings

JOBS = 20
SHOWN_PEOPLE = 50
SHIFTS_TOGETHER = 10


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Id or key; without it, the newest jobs.")] = None,
    tenant: Tenant = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, max=1000, help="Jobs in the table (20), or people of the job (1000)."),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", help="The next page: id of the last job, or person, that was shown.")
    ] = None,
    of_fleet: Annotated[
        bool, typer.Option("--fleet", help="The workers' last shifts instead: how busy devices are, how full batches.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the newest jobs and the workers, or one job with its people and the reasons of failures."""
    settings = load_settings()
    if of_fleet:
        if job is not None or tenant is not None or after is not None:
            raise typer.BadParameter("--fleet shows the workers, which serve every job and tenant; leave these out")
        _fleet(settings, as_json=as_json)
        return
    if job is None:
        _jobs(settings, tenant, limit or JOBS, page_key(after), as_json=as_json)
        return

    from jobs.reports import status as job_status

    terms: dict[str, Any] = {} if limit is None else {"people": limit}
    found = job_status(job, tenant=tenant, after=page_key(after), settings=settings, **terms)
    if as_json:
        print_json(asdict(found))
    else:
        show_job(found)


def _jobs(settings: Settings, tenant: str | None, limit: int, after: uuid.UUID | None, *, as_json: bool) -> None:
    from jobs.control import fleet_paused_at
    from jobs.reports import list_jobs

    jobs = list_jobs(tenant=tenant, limit=limit, after=after, settings=settings)
    further = jobs[-1]["job_id"] if len(jobs) == limit else None
    workers, paused_at = workers_now(settings), fleet_paused_at(settings=settings)
    if as_json:
        print_json({"jobs": jobs, "next": further, "workers": workers, "fleet_paused_at": paused_at})
        return
    rows = [
        (
            job["job_id"],
            short(job["name"] or job["key"], 32),
            job["profile"],
            job["state"],
            f"{job['done']}/{job['renders']}",
            job["failed"],
            age_of(job["created_at"]),
        )
        for job in jobs
    ]
    if rows:
        columns = ("job", "name or key", "profile", "state", "drawn", "failed", "age")
        out().print(table(None, columns, rows, right="drawn failed age"))
        if further is not None:
            more = (
                f" --limit {limit}" * (limit != JOBS)
                + f" --after {further}{of_tenant(tenant or settings.tenant, settings)}"
            )
            hint(f"portraits status{more} shows older ones, if there are any")
    elif after is not None:
        say("no job is older than that one")
    else:
        say(f"tenant {tenant or settings.tenant} has no jobs; `portraits enqueue MANIFEST` makes one")
    say(fleet_line(workers))
    if paused_at is not None:
        say(f"the fleet is paused since {age_of(paused_at)}; `portraits resume --fleet` lets it go on")


def _fleet(settings: Settings, *, as_json: bool) -> None:
    """The last shifts of each worker that ended within a day."""
    from jobs.database import Database
    from jobs.repository import queries

    database = Database.from_settings(settings)
    try:
        with database.reading() as tx:
            shifts = [dict(row) for row in queries.shifts(tx, per_worker=SHIFTS_TOGETHER)]
    finally:
        database.dispose()
    told, now = fleet_shifts(shifts), workers_now(settings)
    if as_json:
        print_json({"workers": now, "together": told, "shifts": shifts})
        return
    columns = (
        "worker",
        "profile",
        "device",
        "shifts",
        "ended",
        "pictures",
        "batches",
        "full",
        "shared",
        "idle",
        "busy",
    )
    rows = [
        (
            *(short(one["worker"], 40), one["profile"], short(one["device"], 40), one["shifts"]),
            *(f"{age_of(one['ended_at'])} ago", one["pictures"], one["batches"], _percent(one["fill"])),
            *(one["mixed"], _percent(one["idle_share"]), _percent(one["busy_share"])),
        )
        for one in told
    ]
    if rows:
        out().print(table(None, columns, rows, right="shifts pictures batches full shared idle busy"))
        hint(f"the last {SHIFTS_TOGETHER} shifts of each; idle: between batches; busy: drawing, of the whole time")
    else:
        say("no shift ended within a day")
    say(fleet_line(now))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def workers_now(settings: Settings) -> list[dict[str, Any]]:
    """The workers of the last day as plain values."""
    from jobs.database import Database
    from jobs.repository import queries

    database = Database.from_settings(settings)
    try:
        with database.reading() as tx:
            rows = [dict(row) for row in queries.workers(tx)]
    finally:
        database.dispose()
    return fleet(rows, time.time(), silent_after=settings.lease_seconds)


def age_of(moment: dt.datetime) -> str:
    """How long ago it was."""
    return ago((dt.datetime.now(dt.UTC) - moment).total_seconds())


def show_job(found: JobStatus) -> None:
    """One job: counts, people, reasons."""
    job = found.job
    paused = f", paused {age_of(job['paused_at'])} ago" if job["state"] == "paused" else ""
    finished = f", finished {age_of(job['finished_at'])} ago" if job["finished_at"] else ""
    finished += f", archived {age_of(job['archived_at'])} ago" if job["archived_at"] else ""
    pictures = {name: job[name] for name in ("done", "running", "failed", "cancelled") if job[name]}
    resting = job["waiting"] - job["running"]
    if resting:
        pictures["paused" if job["state"] == "paused" else "waiting"] = resting
    told = ", ".join(f"{count} {name}" for name, count in pictures.items())
    facts(
        {
            "job": job["job_id"],
            "key": job["key"],
            **({"name": job["name"]} if job["name"] else {}),
            "profile": job["profile"],
            "state": f"{job['state']}, enqueued {age_of(job['created_at'])} ago{paused}{finished}",
            "people": job["identities"],
            "pictures": f"{job['renders']}: {told}" if told else job["renders"],
        }
    )
    _show_people(found)
    if found.failures:
        rows = [(one["error_code"], one["renders"], short(one["example"] or "", 300)) for one in found.failures]
        out().print(table("Why pictures failed", ("code", "pictures", "for example"), rows, right="pictures"))
        hint(f"portraits retry {_named(found)}")


def _named(found: JobStatus) -> str:
    """The job as a suggested command names it."""
    return f"{found.job['job_id']}{of_tenant(found.job['tenant_id'], load_settings())}"


def _show_people(found: JobStatus) -> None:
    """The people in the order of their need: failed ones first."""
    order = {"failed": 0, "partial": 1, "running": 2, "waiting": 3, "paused": 3}
    people = sorted(found.people, key=lambda one: (order.get(one["state"], 4), one["external_id"]))
    rows = [
        (
            short(one["external_id"], 40),
            one["state"],
            f"{one['done']}/{one['renders']}",
            one["failed"],
            short(one["error"] or "", 160),
        )
        for one in people[:SHOWN_PEOPLE]
    ]
    out().print(table(None, ("person", "state", "drawn", "failed", "reason"), rows, right="drawn failed"))
    rest = len(people) - len(rows)
    if rest > 0:
        hint(f"and {rest} more people; --json has all {len(people)}")
    if found.next is not None:
        hint(f"portraits status {_named(found)} --after {found.next} shows those who became known later")
