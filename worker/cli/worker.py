"""`portraits worker`: a Celery worker with the defaults this product was made for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.extras import need_worker_extra
from worker.cli.options import load_settings
from worker.errors import PoolRefused

if TYPE_CHECKING:
    from jobs.settings import Settings

SERVERLESS = ("sqla", "filesystem")


def worker(
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CELERY...]", help="More arguments for `celery worker`, after --.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", help="Refused unless 1: a worker is one process on one device.")
    ] = None,
    loglevel: Annotated[str, typer.Option("--loglevel", "-l", help="debug, info, warning or error.")] = "info",
    name: Annotated[
        str, typer.Option("--name", "-n", help="Name of the worker; several on one machine need different ones.")
    ] = "portraits",
) -> None:
    """Draw what is enqueued, until SIGTERM.

    The same as `celery -A worker.app worker` with our defaults. Start one for each GPU, with CUDA_VISIBLE_DEVICES set.
    """
    from jobs.database import Database

    if concurrency not in {None, 1}:
        raise PoolRefused(
            f"concurrency {concurrency} is refused: a worker is one process on one device; start one worker for each "
            "GPU, with CUDA_VISIBLE_DEVICES and --name set"
        )
    need_worker_extra("`portraits worker`")
    settings = load_settings()
    database = Database.from_settings(settings)
    try:
        database.require_current()
    finally:
        database.dispose()
    command = celery_command(settings, loglevel=loglevel, name=name, more=more or ())
    sys.stdout.flush()
    os.execv(command[0], command)


def celery_command(settings: Settings, *, loglevel: str, name: str, more: Sequence[str] = ()) -> list[str]:
    """The command line of a worker: one child process; without the chatter that serverless brokers cannot carry."""
    scheme = settings.broker_url.get_secret_value().partition(":")[0].partition("+")[0]
    quiet = ["--without-gossip", "--without-mingle"] if scheme in SERVERLESS else []
    return [
        *(sys.executable, "-m", "celery", "-A", "worker.app", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--loglevel", loglevel),
        *("--hostname", name if "@" in name else f"{name}@%h"),
        *quiet,
        *more,
    ]
