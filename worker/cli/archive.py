"""`portraits archive`: jobs that are over, out of the queue's tables and back."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.durations import seconds
from worker.cli.options import AsJson, load_settings
from worker.cli.output import print_json, say, warn


def archive(
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="What has been over for so long: 90d, 12h, 30m.")
    ] = None,
    restore: Annotated[str | None, typer.Option("--restore", metavar="JOB", help="Bring this job back.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only this tenant's; to restore: whose, default PORTRAITS_TENANT.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, max=2**31 - 1, help="Jobs at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Move jobs that are over into the archive, or one back.

    Status, results and pictures of archived jobs stay as they are; retry and rerun want them restored first.
    May be interrupted and repeated, and run while jobs are drawn.
    """
    from jobs import archive as jobs_archive

    settings = load_settings()
    if (older_than is None) == (restore is None):
        raise typer.BadParameter("say either --older-than TIME or --restore JOB")
    if restore is not None:
        moved = jobs_archive.restore(restore, tenant=tenant, settings=settings)
        told = f"job {restore} is back, {moved.renders} pictures" if moved.jobs else f"job {restore} is not archived"
    else:
        age = seconds(str(older_than))
        moved = jobs_archive.archive(older_than_seconds=age, tenant=tenant, limit=limit, settings=settings)
        told = f"{moved.jobs} jobs archived, {moved.renders} pictures"
    for job_id in moved.turned:
        warn(f"job {job_id} was brought back: something of it was to be drawn again, or its restoring was interrupted")
    if as_json:
        print_json({"jobs": moved.jobs, "renders": moved.renders, "turned": moved.turned})
    else:
        say(told)
