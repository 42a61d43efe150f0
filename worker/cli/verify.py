"""`portraits verify`: whether counters and states are what the rows say."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, JobOrNewest, Tenant, load_settings
from worker.cli.output import hint, print_json, say, warn

SHOWN = 50


def verify(
    job: JobOrNewest = None,
    every: Annotated[bool, typer.Option("--all", help="Every job; of every tenant without --tenant.")] = False,
    objects: Annotated[bool, typer.Option("--objects", help="Also ask the store for each picture; slow.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Set the counters of settled units right.")] = False,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Count a job's pictures anew and compare; exit code 1 if something differs.

    May be run while jobs are drawn.
    """
    from jobs.verify import verify as verify_jobs

    if every and job is not None:
        raise typer.BadParameter("--all means every job; leave JOB out")
    found = verify_jobs(job, every=every, objects=objects, fix=fix, tenant=tenant, settings=load_settings())
    if as_json:
        print_json({"ok": not found.differences, **asdict(found)})
    else:
        for difference in found.differences[:SHOWN]:
            warn(difference)
        if len(found.differences) > SHOWN:
            hint(f"and {len(found.differences) - SHOWN} more; --json has all")
        corrected = f", {found.corrected} units corrected" if fix else ""
        told = f"{len(found.differences)} differences" if found.differences else "all is as counted"
        say(f"{found.jobs} jobs verified{corrected}: {told}")
    if found.differences:
        raise typer.Exit(Exit.PROBLEM)
