"""`portraits cancel`, `retry` and `rerun`: what may still be changed about a job."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from worker.cli.options import AsJson, Job, Tenant, load_settings, of_tenant, render_id
from worker.cli.output import hint, print_json, say, warn


def cancel(job: Job, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Stop a job; pictures that are drawn stay."""
    from jobs.reports import cancel as cancel_job

    count = cancel_job(job, tenant=tenant, settings=load_settings())
    if as_json:
        print_json({"job": job, "cancelled": count})
    else:
        say(f"cancelled {count} pictures of {job}")


def retry(
    job: Job,
    failed: Annotated[bool, typer.Option("--failed", help="What failed; the default without --quarantined.")] = False,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="What too many workers were lost with; else only by its --code.")
    ] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Also what was cancelled.")] = False,
    code: Annotated[str | None, typer.Option("--code", help="Of what failed, only with this code.")] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Draw the failed pictures of a job once more."""
    from jobs.reports import retry as retry_job

    asked: dict[str, Any] = {"failed": failed or None, "quarantined": quarantined, "cancelled": cancelled, "code": code}
    settings = load_settings()
    count, warnings = retry_job(job, tenant=tenant, settings=settings, **asked)
    if as_json:
        print_json({"job": job, "retried": count, "warnings": warnings})
        return
    _warn(warnings)
    kinds = "failed" + f" with the code {code}" * (code is not None) + " or was cancelled" * cancelled
    named = f"{job}{of_tenant(tenant or settings.tenant, settings)}"
    missed = f"nothing of {job} that {kinds} may be tried now; `portraits status {named}` shows what there is"
    say(f"{count} pictures of {job} wait again" if count else missed)
    if count:
        hint(f"portraits watch {named}")


def rerun(
    render: Annotated[str, typer.Argument(metavar="RENDER", help="Id of a picture.")],
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="Default: a fresh one.")] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Draw one picture once more, under another seed; the old one stays."""
    from jobs.reports import rerun as rerun_render

    new_id, chosen, warnings = rerun_render(render_id(render), seed=seed, tenant=tenant, settings=load_settings())
    if as_json:
        print_json({"render_id": new_id, "rerun_of": render, "seed": chosen, "warnings": warnings})
        return
    _warn(warnings)
    say(f"picture {new_id} will be drawn with seed {chosen}")


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        warn(warning)
