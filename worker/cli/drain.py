"""`portraits drain`: let workers finish their batch and claim nothing more, and wait until they have."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, load_settings
from worker.cli.output import hint, print_json, say

if TYPE_CHECKING:
    from jobs.repository.drain import DrainingWorker

Name = Annotated[
    str | None, typer.Argument(metavar="[WORKER]", help="Name as `status --json` shows it, or a machine's; or --all.")
]


def drain(
    worker: Name = None,
    every: Annotated[bool, typer.Option("--all", help="Every worker that runs now.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let it claim again.")] = False,
    seconds: Annotated[
        float, typer.Option("--timeout", min=0, help="Wait so many seconds at most; 0 does not wait.")
    ] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Let a worker finish its batch, hand back the rest and claim nothing more; exits with 1 if it takes too long.

    The worker's process goes on running, and says `drained`: stop it, or --undo.
    """
    from jobs.control import drain as drain_workers
    from jobs.control import undo_drain

    if every == (worker is not None):
        raise typer.BadParameter("name a WORKER, or say --all; one of the two")
    settings = load_settings()
    if undo:
        names = undo_drain(worker, settings=settings)
        if as_json:
            print_json({"undone": names})
        else:
            say(f"{', '.join(names)}: may claim again")
        return
    found = drain_workers(worker, timeout_seconds=seconds, wait=time.sleep, settings=settings)
    late = [one for one in found if not one.is_over]
    if as_json:
        print_json({"workers": [asdict(one) for one in found], "drained": not late})
    else:
        for one in found:
            say(f"{one.name}: {_told(one, settings.lease_seconds)}")
        heard = [one for one in late if one.silent_seconds <= settings.lease_seconds]
        if heard:
            hint(f"{len(heard)} are not drained; they claim nothing more once they see it: `portraits status`")
    if late and seconds > 0:
        raise typer.Exit(Exit.PROBLEM)


def _told(one: DrainingWorker, lease_seconds: float) -> str:
    """How far a worker is; what one said of itself that has fallen silent is not so any more."""
    if not one.is_over and one.silent_seconds > lease_seconds:
        return f"silent for {one.silent_seconds:.0f} s; its units go to others"
    return one.state if one.understands else f"{one.state}, of a version that cannot drain; stop it"
