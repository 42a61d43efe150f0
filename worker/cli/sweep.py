"""`portraits sweep`: objects of the store that no row names."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.durations import seconds
from worker.cli.options import AsJson, load_settings
from worker.cli.output import facts, hint, print_json

LEAST_GRACE_SECONDS = 60.0


def sweep(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's; default: everybody's.")] = None,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Leave alone what was written since: 90d, 12h, 30m.")
    ] = "1h",
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only counted.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove also what was written within the last minute; only when all rests.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count, or remove, stored objects that no row names: what workers left that were killed.

    What a worker at work may be about to record is left alone. The store must be this database's alone.
    """
    from jobs.sweep import sweep as sweep_store

    grace = seconds(older_than)
    if delete and grace < LEAST_GRACE_SECONDS and not force:
        raise typer.BadParameter(
            f"--delete --older-than {older_than} takes what is being written at this moment and named a moment later; "
            "wanted a minute at least, or --force when nobody enqueues and no worker runs"
        )
    report = sweep_store(load_settings(), tenant=tenant, older_than_seconds=grace, delete=delete)
    if as_json:
        print_json({**asdict(report), "seen": report.seen, "deleted": delete})
        return
    told = f"{report.orphans} objects, {report.orphan_bytes / 2**20:.1f} MiB"
    facts(
        {
            "looked at": f"{report.seen} objects",
            "named by rows": report.named,
            "may be recorded yet": report.expected,
            "written lately": report.young,
            **({"of unknown names, left alone": report.unknown} if report.unknown else {}),
            "orphans": f"{told}, {report.removed} removed" if delete else told,
        }
    )
    if report.orphans and not delete:
        hint("portraits sweep --delete removes them")
