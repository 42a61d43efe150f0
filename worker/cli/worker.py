"""`portraits worker`: a Celery worker with the defaults this product was made for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.extras import need_worker_extra
from worker.cli.options import load_settings
from worker.cli.output import hint
from worker.errors import PoolRefused

if TYPE_CHECKING:
    from jobs.settings import Settings

SERVERLESS = ("sqla", "filesystem")
START = Path(__file__).resolve().parents[1] / "start.py"


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
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", help="One worker for each: all, or numbers with commas; they are minded and restarted."),
    ] = None,
    vram_gb: Annotated[
        float | None,
        typer.Option("--vram-gb", help="GPU memory to keep to, such as 8, 12, 24; default: PORTRAITS_VRAM_GB."),
    ] = None,
) -> None:
    """Draw what is enqueued, until SIGTERM.

    The same as `celery -A worker.app worker` with our defaults. On a machine with several GPUs: `--gpus all`.
    """
    from jobs.database import Database
    from jobs.repository.sight import require_work

    if concurrency not in {None, 1}:
        raise PoolRefused(
            f"concurrency {concurrency} is refused: a worker is one process on one device; several GPUs have a worker "
            "each with --gpus all"
        )
    need_worker_extra("`portraits worker`")
    if vram_gb is not None:
        os.environ["PORTRAITS_VRAM_GB"] = f"{vram_gb:g}"  # for the worker that this becomes, or those that it starts
    settings = load_settings()
    database = Database.from_settings(settings)
    try:
        database.require_current()
        with database.reading() as tx:
            require_work(tx)
    finally:
        database.dispose()
    if gpus is not None:
        raise typer.Exit(_run_fleet(settings, gpus, loglevel=loglevel, name=name, more=more or ()))
    command = celery_command(settings, loglevel=loglevel, name=name, more=more or ())
    sys.stdout.flush()
    os.execv(command[0], command)


def _run_fleet(settings: Settings, gpus: str, *, loglevel: str, name: str, more: Sequence[str]) -> int:
    from worker.gpus import (
        METRICS_PORT,
        GpuFleet,
        chosen_gpus,
        cuda_count,
        metrics_ports,
        own_environment,
        require_any_gpu,
    )

    require_any_gpu(settings.device)
    chosen = chosen_gpus(gpus, os.environ, cuda_count)
    hint(f"{len(chosen)} workers, on GPU {', '.join(chosen)}")
    host, at, machine = name.partition("@")

    def command(gpu: str) -> list[str]:
        return celery_command(settings, loglevel=loglevel, name=f"{host}-gpu{gpu}{at}{machine}", more=more)

    ports = metrics_ports(settings.metrics_port, chosen)
    return GpuFleet(chosen, command, own_environment(), hint, lambda gpu: {METRICS_PORT: str(ports[gpu])}).run()


def celery_command(settings: Settings, *, loglevel: str, name: str, more: Sequence[str] = ()) -> list[str]:
    """The command line of a worker: one child process; without the chatter that serverless brokers cannot carry."""
    scheme = settings.broker_url.get_secret_value().partition(":")[0].partition("+")[0]
    quiet = ["--without-gossip", "--without-mingle"] if scheme in SERVERLESS else []
    return [
        *(sys.executable, "-P", str(START), "-A", "worker.app", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--loglevel", loglevel),
        *("--hostname", name if "@" in name else f"{name}@%h"),
        *quiet,
        *more,
    ]
