"""`portraits clerk`: tells of ends, makes galleries, delivers webhooks, sweeps; beside the workers."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, load_settings
from worker.cli.output import print_json, say, warn

if TYPE_CHECKING:
    from jobs.clerk.process import Outcome
    from jobs.settings import Settings

WORDS = {
    "ends": "units' ends told",
    "galleries": "galleries made",
    "webhooks": "messages taken by webhooks",
    "retention": "people and jobs past their time removed",
    "deliveries": "old deliveries dropped",
}


def clerk(
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, say what it was, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do what follows from the queue, until SIGTERM: tell of ends, make galleries, sweep what is kept too long.

    Workers and `portraits serve` start one by themselves unless PORTRAITS_CLERK=off; any number may run.
    """
    if as_json and not once:
        raise typer.BadParameter("--json tells what was done, and goes with --once")
    settings = load_settings()
    _require_clerk(settings)
    if once:
        from jobs.clerk.process import once as do_once

        raise typer.Exit(_tell(do_once(settings), as_json=as_json))
    from jobs import logs
    from jobs.clerk.run import run

    logs.set_up(settings)
    status = run(settings)
    logging.shutdown()
    sys.stdout.flush()
    # At once: a thread that was not waited for may be in the middle of an exchange with a server.
    os._exit(status)


def _require_clerk(settings: Settings) -> None:
    """Raises DatabaseOutdated, and SettingsInvalid for a login that sees no tenant, or storage that is none."""
    from jobs.database import Database
    from jobs.repository.sight import require_sight, require_work

    database = Database.from_settings(settings)
    try:
        database.require_current()
        with database.reading() as tx:
            require_sight(tx)
            require_work(tx)
    finally:
        database.dispose()


def _tell(outcomes: list[Outcome], *, as_json: bool) -> Exit:
    faults = [outcome for outcome in outcomes if outcome.fault]
    if as_json:
        told = {outcome.errand: outcome.done for outcome in outcomes if not outcome.fault}
        print_json({"done": told, "faults": {outcome.errand: outcome.fault for outcome in faults}})
    else:
        for outcome in outcomes:
            if not outcome.fault:
                say(f"{outcome.done:,} {WORDS.get(outcome.errand, outcome.errand)}")
        for outcome in faults:
            warn(f"{outcome.errand}: {outcome.fault}")
    return Exit.PROBLEM if faults else Exit.OK
