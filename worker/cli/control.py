"""`portraits pause` and `resume`: hold back a job, or every worker, and let go on."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.options import AsJson, Tenant, load_settings
from worker.cli.output import hint, print_json, say, warn

JobOrFleet = Annotated[str | None, typer.Argument(metavar="[JOB]", help="Id or key of the job; or --fleet.")]
OfFleet = Annotated[bool, typer.Option("--fleet", help="Not one job: every worker, for every tenant.")]


def pause(job: JobOrFleet = None, fleet: OfFleet = False, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Draw nothing more of a job until `resume`, or of any with --fleet; finished pictures stay."""
    from jobs.control import pause as pause_job
    from jobs.control import pause_fleet

    settings, named = load_settings(), _one_of(job, fleet, tenant)
    count = pause_fleet(settings=settings) if named is None else pause_job(named, tenant=tenant, settings=settings)
    if as_json:
        print_json({"job": named, "fleet": fleet, "units": count})
    elif named is None:
        say(f"the fleet is paused; {count} units that were being drawn wait again")
        hint("portraits resume --fleet")
    elif count:
        say(f"paused {named}: {count} units of it wait for `portraits resume`")
    else:
        say(f"nothing of {named} waits that is not paused already")


def resume(job: JobOrFleet = None, fleet: OfFleet = False, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Let a paused job go on where it stood in the queue, or every worker with --fleet."""
    from jobs.control import resume as resume_job
    from jobs.control import resume_fleet

    settings, named = load_settings(), _one_of(job, fleet, tenant)
    if named is None:
        was_paused, warnings = resume_fleet(settings=settings)
        told = "the fleet goes on" if was_paused else "the fleet was not paused"
        answer: dict[str, object] = {"job": None, "fleet": True, "was_paused": was_paused}
    else:
        count, warnings = resume_job(named, tenant=tenant, settings=settings)
        told = f"{count} units of {named} wait again" if count else f"nothing of {named} was paused"
        answer = {"job": named, "fleet": False, "units": count}
    if as_json:
        print_json(answer | {"warnings": warnings})
        return
    for warning in warnings:
        warn(warning)
    say(told)


def _one_of(job: str | None, fleet: bool, tenant: str | None) -> str | None:
    """The job's name; None for the fleet. Raises BadParameter unless exactly one is meant."""
    if fleet == (job is not None):
        raise typer.BadParameter("name a JOB, or say --fleet for every worker; one of the two")
    if fleet and tenant is not None:
        raise typer.BadParameter("--fleet is for every tenant; leave --tenant out")
    return job
