"""`portraits health`: whether the worker on this machine does its work, for health checks of containers."""

from __future__ import annotations

from dataclasses import asdict

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, load_settings
from worker.cli.output import print_json, say


def health(as_json: AsJson = False) -> None:
    """Say whether each worker of this home on this machine asked the broker, or went on with its shift, lately.

    Exit code 0 when there is one and all are well, else 1. Nothing is asked but a few small files of the workers: it
    costs nothing, and answers when database and broker are away.
    """
    from worker.telemetry.vitals import workers

    settings = load_settings()
    found = workers(settings)
    if as_json:
        print_json({"workers": [asdict(one) for one in found]})
    for one in [] if as_json else found:
        say(f"{one.worker}: {'well' if one.is_well else 'stuck'}, {one.reason}", "" if one.is_well else "red")
    if not found and not as_json:
        say(f"no worker of {settings.home} runs on this machine", "red")
    if not found or not all(one.is_well for one in found):
        raise typer.Exit(Exit.PROBLEM)
